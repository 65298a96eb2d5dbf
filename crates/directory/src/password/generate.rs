//! Passwords that the program makes.

use super::{Password, random};

/// Letters and digits that are not mistaken for one another: 32 of them, so that each carries 5 bits.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
const GROUPS: usize = 4;
const GROUP: usize = 5;

/// A new password of 100 random bits, in groups that can be typed: `h7k2m-…`.
pub fn generate() -> Password {
    let octets = random::<{ GROUPS * GROUP }>();
    let groups: Vec<String> = octets
        .chunks(GROUP)
        .map(|group| group.iter().map(|octet| char::from(ALPHABET[usize::from(octet % 32)])).collect())
        .collect();
    Password::new(groups.join("-")).expect("it is not empty, short and plain")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_passwords_are_long_and_differ() {
        let (one, two) = (generate(), generate());
        assert_ne!(one, two);
        assert_eq!(one.reveal().len(), 23);
        assert!(one.reveal().chars().all(|c| c == '-' || c.is_ascii_alphanumeric()));
        let mut letters: Vec<u8> = ALPHABET.to_vec();
        letters.dedup();
        assert_eq!(letters.len(), 32);
    }
}
