//! Lines that say what a section is called, which nobody sings.

/// What sections are called: words that alone on a line, and with a capital, are a heading.
const SECTIONS: [&str; 12] = [
    "chorus",
    "prechorus",
    "postchorus",
    "refrain",
    "verse",
    "bridge",
    "intro",
    "outro",
    "interlude",
    "refrão",
    "estribillo",
    "ritornello",
];
/// What else they are called: words that are sung, too, so that brackets, a colon or a number has to say that they are a heading.
const AMBIGUOUS: [&str; 15] = [
    "hook",
    "solo",
    "break",
    "breakdown",
    "coda",
    "instrumental",
    "coro",
    "strophe",
    "couplet",
    "vers",
    "estrofa",
    "verso",
    "puente",
    "ponte",
    "strofa",
];
/// What stands beside such a name.
const BESIDE: [&str; 14] = [
    "repeat",
    "repeated",
    "final",
    "last",
    "first",
    "second",
    "third",
    "guitar",
    "piano",
    "pre",
    "post",
    "instrumental",
    "again",
    "twice",
];
const ROMAN: [&str; 6] = ["i", "ii", "iii", "iv", "v", "vi"];
/// A line with more words is a sentence about a chorus.
const MOST_WORDS: usize = 4;

/// Whether a line is nothing but words in square brackets (`[Verse 2: Anna]`, `[Chorus] [x2]`), or the name of a section as it is written
/// without them: `Chorus`, `(Chorus x2)`, `Verse 2:`, `CHORUS.—`.
pub(super) fn is_heading(line: &str) -> bool {
    is_in_brackets(line) || is_section_name(line)
}

fn is_in_brackets(line: &str) -> bool {
    let mut rest = line;
    while let Some((inside, after)) = rest.strip_prefix('[').and_then(|open| open.split_once(']')) {
        if inside.contains('[') {
            return false;
        }
        rest = after.trim_start();
    }
    rest.is_empty() && !line.is_empty()
}

fn is_section_name(line: &str) -> bool {
    if line.ends_with(['?', '!', ',']) {
        return false;
    }
    let words = || line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    // Most lines are longer, and done with here.
    if words().nth(MOST_WORDS).is_some() {
        return false;
    }
    let is_marked = line.starts_with('(') && line.ends_with(')') || line.contains(':');
    let is_capital = line.chars().find(|c| c.is_alphabetic()).is_some_and(char::is_uppercase);
    // Whether the word before may have a number like this one, and one of a single letter: who sings is `I`, too.
    let (mut takes_roman, mut takes_letter) = (false, false);
    let (mut names, mut ambiguous, mut is_numbered) = (0, 0, false);
    for word in words() {
        let lower = word.to_lowercase();
        let (is_name, is_ambiguous) = (SECTIONS.contains(&lower.as_str()), AMBIGUOUS.contains(&lower.as_str()));
        let is_roman = takes_roman && (lower.len() > 1 || takes_letter && word != lower);
        let is_number = is_number(&lower) || is_roman && ROMAN.contains(&lower.as_str());
        if !is_name && !is_ambiguous && !is_number && !BESIDE.contains(&lower.as_str()) {
            return false;
        }
        names += usize::from(is_name);
        ambiguous += usize::from(is_ambiguous);
        is_numbered |= is_number;
        takes_roman = is_name || is_ambiguous || is_number;
        takes_letter = is_name || is_number || is_ambiguous && is_marked;
    }
    names > 0 && (is_marked || is_capital || is_numbered) || ambiguous > 0 && (is_marked && is_capital || is_numbered)
}

/// `2`, `x2`, `2x`.
fn is_number(word: &str) -> bool {
    let digits = word.strip_prefix('x').or(word.strip_suffix('x')).unwrap_or(word);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}
