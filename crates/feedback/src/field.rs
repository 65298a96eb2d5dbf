//! The one way in which a field gets into a report. Control characters end here, whoever wrote them.

use std::fmt::Display;

use crate::dsn::Form;

/// Where a line is folded if it can be (RFC 5322 §2.1.1).
const PREFERRED: usize = 78;
/// Octets of a value that are kept. What is cut is marked.
const LONGEST_VALUE: usize = 2_000;
/// The longest word without a place to fold it at: with the field's name it stays below 998 octets.
const LONGEST_WORD: usize = 900;

/// Fields in the order they are written, as text with CRLF.
pub(crate) struct Fields {
    form: Form,
    text: String,
}

impl Fields {
    pub(crate) fn new(form: Form) -> Fields {
        Fields { form, text: String::new() }
    }

    /// Appends one field, folded at its spaces.
    pub(crate) fn add(&mut self, name: &'static str, value: impl Display) {
        let value = clean(&value.to_string(), self.form);
        self.text.push_str(name);
        self.text.push(':');
        let mut column = name.len() + 1;
        for (at, word) in words(&value).enumerate() {
            let width = word.chars().count() + 1;
            // The first word stays with the name: some readers take a value that begins on its second line for empty.
            if at > 0 && column + width > PREFERRED {
                self.text.push_str("\r\n");
                column = 0;
            }
            self.text.push(' ');
            self.text.push_str(word);
            column += width;
        }
        self.text.push_str("\r\n");
    }

    /// Appends the empty line between two groups of fields.
    pub(crate) fn end_group(&mut self) {
        self.text.push_str("\r\n");
    }

    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

/// The words of a value, over-long ones cut into several.
fn words(value: &str) -> impl Iterator<Item = &str> {
    value.split(' ').filter(|word| !word.is_empty()).flat_map(|word| {
        let mut rest = word;
        std::iter::from_fn(move || {
            let (head, tail) = rest.split_at(rest.floor_char_boundary(LONGEST_WORD));
            rest = tail;
            (!head.is_empty()).then_some(head)
        })
    })
}

/// Text without control characters, of bounded length, and in ASCII where the form asks for it.
pub(crate) fn clean(text: &str, form: Form) -> String {
    let kept = &text[..text.floor_char_boundary(LONGEST_VALUE)];
    let mut clean: String = kept.chars().map(|c| clean_character(c, form)).collect();
    if kept.len() < text.len() {
        clean.push_str(" [...]");
    }
    clean
}

fn clean_character(c: char, form: Form) -> char {
    match c {
        '\t' | '\r' | '\n' => ' ',
        // Line and paragraph separators and marks of direction make one line look like another.
        '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '?',
        c if c.is_control() => '?',
        c if form == Form::Ascii && !c.is_ascii() => '?',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn field(form: Form, value: &str) -> String {
        let mut fields = Fields::new(form);
        fields.add("Name", value);
        fields.into_text()
    }

    #[test]
    fn a_value_cannot_begin_a_field_of_its_own() {
        assert_eq!(field(Form::Ascii, "a\r\nBcc: evil@example.org\r\n\r\nx"), "Name: a Bcc: evil@example.org x\r\n");
        assert_eq!(field(Form::Ascii, "nul\0 \u{85}é"), "Name: nul? ??\r\n");
        assert_eq!(field(Form::Utf8, "é\u{202e}"), "Name: é?\r\n");
    }

    #[test]
    fn long_values_are_folded_and_cut() {
        let folded = field(Form::Ascii, &"word ".repeat(40));
        assert!(folded.lines().count() > 2 && folded.lines().all(|line| line.len() <= PREFERRED));
        assert!(field(Form::Ascii, &"x ".repeat(5_000)).trim_end().ends_with("[...]"));
    }

    proptest! {
        #[test]
        fn every_value_makes_exactly_one_field(value in any::<String>(), long in "[é\r\n ]{0,3000}") {
            for text in [value, long] {
                let field = field(Form::Utf8, &text);
                prop_assert!(field.starts_with("Name:") && field.ends_with("\r\n"));
                for line in field.trim_end_matches("\r\n").split("\r\n").skip(1) {
                    prop_assert!(line.starts_with(' ') && !line.trim().is_empty());
                }
                prop_assert!(field.split("\r\n").all(|line| line.len() <= 998 && !line.contains(['\r', '\n', '\0'])));
            }
        }
    }
}
