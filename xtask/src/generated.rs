//! Blocks of documentation pages that are generated from code. A test compares each block; with `UPDATE_DOCS=1` in the
//! environment it writes the block instead.

use std::fs;

/// Compares the block `name` of `page` with `expected`. The block lies between the comments `<!-- generated: NAME -->` and
/// `<!-- end of NAME -->`.
///
/// # Panics
/// If the page has no such block or another text in it.
pub fn check(page: &str, name: &str, expected: &str) {
    let path = crate::workspace::root().expect("the repository exists").join(page);
    let text = fs::read_to_string(&path).expect("the page is readable");
    let (begin, end) = (format!("<!-- generated: {name} -->\n"), format!("<!-- end of {name} -->"));
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{page} has no line {begin:?}"));
    let (present, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{page} has no line {end:?}"));
    if present == expected {
        return;
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{begin}{expected}{end}{after}")).expect("the page is writable");
        return;
    }
    panic!(
        "{page}: block {name:?} is out of date; run this test with UPDATE_DOCS=1. It should be:\n{expected}"
    );
}
