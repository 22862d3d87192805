//! Command lines in the documentation and the packages, checked against the parser.

use clap::CommandFactory as _;

use super::*;

/// Files that contain command lines.
const DOCUMENTS: [&str; 3] = ["docs/macos.md", "README.md", "packaging/homebrew/desktopstream.rb"];

fn read(file: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A document as Markdown: the formula's caveats become a code block.
fn markdown(file: &str) -> String {
    let text = read(file);
    match text.split("EOS").nth(1) {
        Some(caveats) => format!("```{caveats}```"),
        None => text,
    }
}

/// The words of a command line from `host-agent` on, without comments; `None` if it is another program's.
fn words(line: &str) -> Option<Vec<String>> {
    let line = line.split(" #").next().unwrap_or_default();
    let all = line.split_whitespace().map(|word| word.trim_matches(['"', '\'']).to_owned());
    let ours: Vec<_> = all.skip_while(|word| word != "host-agent").collect();
    (ours.len() > 1).then_some(ours)
}

/// Command lines of code blocks, with continued lines joined.
fn complete_commands(markdown: &str) -> Vec<Vec<String>> {
    let blocks = markdown.split("```").skip(1).step_by(2);
    let joined: Vec<_> = blocks.map(|block| block.replace("\\\n", " ")).collect();
    joined.iter().flat_map(|block| block.lines().filter_map(words)).collect()
}

/// Commands in inline code, which may lack required arguments.
fn partial_commands(markdown: &str) -> Vec<Vec<String>> {
    let prose = markdown.split("```").step_by(2);
    let spans = prose.flat_map(|text| text.split('`').skip(1).step_by(2));
    spans.filter(|span| span.starts_with("host-agent ")).filter_map(words).collect()
}

/// The parser's error for a complete command line, if any.
fn parse_error(words: &[String]) -> Option<String> {
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
    let error = Cli::try_parse_from(words).err()?;
    (!matches!(error.kind(), DisplayHelp | DisplayVersion)).then(|| error.to_string())
}

/// The first unknown subcommand or option of a partial command, if any. `install|uninstall` names two
/// subcommands.
fn unknown_word(words: &[String]) -> Option<String> {
    let mut command = Cli::command();
    command.build();
    let mut at = &command;
    for word in words.iter().skip(1).take_while(|word| *word != "--") {
        if let Some(name) = word.strip_prefix("--") {
            if !at.get_arguments().any(|argument| argument.get_long() == Some(name)) {
                return Some(format!("{} has no --{name}", at.get_name()));
            }
        } else if at.has_subcommands() {
            let parent = at;
            for name in word.split('|') {
                let Some(found) = parent.find_subcommand(name) else {
                    return Some(format!("{} has no {name}", parent.get_name()));
                };
                at = found;
            }
        }
    }
    None
}

#[test]
fn documented_commands_are_accepted_by_the_parser() {
    let (mut complete, mut partial) = (0, 0);
    for file in DOCUMENTS {
        let text = markdown(file);
        for words in complete_commands(&text) {
            assert_eq!(parse_error(&words), None, "{file}: {}", words.join(" "));
            complete += 1;
        }
        for words in partial_commands(&text) {
            assert_eq!(unknown_word(&words), None, "{file}: {}", words.join(" "));
            partial += 1;
        }
    }
    assert!(complete >= 9 && partial >= 3, "{complete} complete and {partial} partial commands found");
}

#[test]
fn unknown_commands_are_detected() {
    let split = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    for line in
        ["host-agent instal", "host-agent install --progam x", "host-agent run qemu", "host-agent tap"]
    {
        assert!(parse_error(&split(line)).is_some(), "{line}");
    }
    for line in ["host-agent instal", "host-agent install --progam", "host-agent install|uninstal"] {
        assert!(unknown_word(&split(line)).is_some(), "{line}");
    }
}

#[test]
fn command_line_definition_is_consistent() {
    Cli::command().debug_assert();
}
