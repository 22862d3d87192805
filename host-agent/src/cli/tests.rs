//! The command lines that docs and packages give, held against ours.

use clap::CommandFactory as _;

use super::*;

/// Where people are told what to type.
const TOLD: [&str; 3] = ["docs/macos.md", "README.md", "packaging/homebrew/desktopstream.rb"];

fn read(file: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What the formula tells who installed it, as a page of ours would.
fn page(file: &str) -> String {
    let text = read(file);
    match text.split("EOS").nth(1) {
        Some(caveats) => format!("```{caveats}```"),
        None => text,
    }
}

/// Whole lines of shell, continued ones joined, without comments and what stands before our name; and what is named in
/// the text, which need not be whole.
fn commands(text: &str) -> (Vec<Vec<String>>, Vec<Vec<String>>) {
    let words = |line: &str| -> Option<Vec<String>> {
        let line = line.split(" #").next().unwrap_or_default();
        let all = line.split_whitespace().map(|word| word.trim_matches(['"', '\'']).to_owned());
        let ours: Vec<_> = all.skip_while(|word| word != "host-agent").collect();
        (ours.len() > 1).then_some(ours)
    };
    let (mut whole, mut named) = (Vec::new(), Vec::new());
    for (at, block) in text.split("```").enumerate() {
        if at % 2 == 1 {
            let joined = block.replace("\\\n", " ");
            whole.extend(joined.lines().filter_map(words));
        } else {
            let spans = block.split('`').skip(1).step_by(2);
            named.extend(spans.filter(|span| span.starts_with("host-agent ")).filter_map(words));
        }
    }
    (whole, named)
}

/// Why a whole command line makes no sense.
fn wrong(words: &[String]) -> Option<String> {
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
    let parsed = Cli::try_parse_from(words).err()?;
    (!matches!(parsed.kind(), DisplayHelp | DisplayVersion)).then(|| parsed.to_string())
}

/// Why something that is named is not there: a command of ours, or an option of its. `install|uninstall` names two.
fn unknown(words: &[String]) -> Option<String> {
    let mut command = Cli::command();
    command.build();
    let mut at = &command;
    for word in words.iter().skip(1).take_while(|word| *word != "--") {
        if let Some(name) = word.strip_prefix("--") {
            if !at.get_arguments().any(|argument| argument.get_long() == Some(name)) {
                return Some(format!("{} has no --{name}", at.get_name()));
            }
        } else if at.has_subcommands() {
            let of = at;
            for name in word.split('|') {
                let Some(found) = of.find_subcommand(name) else {
                    return Some(format!("{} has no {name}", of.get_name()));
                };
                at = found;
            }
        }
    }
    None
}

#[test]
fn what_people_are_told_to_type_is_understood() {
    let (mut lines, mut names) = (0, 0);
    for file in TOLD {
        let (whole, named) = commands(&page(file));
        for words in &whole {
            assert_eq!(wrong(words), None, "{file}: {}", words.join(" "));
        }
        for words in &named {
            assert_eq!(unknown(words), None, "{file}: {}", words.join(" "));
        }
        (lines, names) = (lines + whole.len(), names + named.len());
    }
    assert!(lines >= 9 && names >= 3, "{lines} lines, {names} names: the docs were not read");
}

#[test]
fn what_we_do_not_have_is_noticed() {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    for bad in ["host-agent instal", "host-agent install --progam x", "host-agent run qemu", "host-agent tap"]
    {
        assert!(wrong(&words(bad)).is_some(), "{bad}");
    }
    for bad in ["host-agent instal", "host-agent install --progam", "host-agent install|uninstal"] {
        assert!(unknown(&words(bad)).is_some(), "{bad}");
    }
}
