//! Reading what others write: lists that are cut while they are read, and values in the forms that are seen.
//!
//! What is beyond a bound is read over, never held: a report of some kilobytes can be millions of empty objects, once it is
//! out of its compression.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, SeqAccess, Visitor};

/// The first `MOST` elements of a list.
pub(super) fn first<'de, const MOST: usize, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct List<T, const MOST: usize>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for List<T, MOST> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Vec<T>, A::Error> {
            take(list, MOST)
        }
    }
    deserializer.deserialize_seq(List::<T, MOST>(PhantomData))
}

/// The first `MOST` of a list of texts; some write a single one without the list, or null.
pub(super) fn texts<'de, const MOST: usize, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Texts<const MOST: usize>;
    impl<'de, const MOST: usize> Visitor<'de> for Texts<MOST> {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of texts, or a text")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<Vec<String>, E> {
            Ok(vec![text.to_owned()])
        }

        fn visit_unit<E: Error>(self) -> Result<Vec<String>, E> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Vec<String>, A::Error> {
            take(list, MOST)
        }
    }
    deserializer.deserialize_any(Texts::<MOST>)
}

/// A number; some write it as text.
pub(super) fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Count;
    impl Visitor<'_> for Count {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number")
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
            Ok(number)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
            text.trim().parse().map_err(E::custom)
        }
    }
    deserializer.deserialize_any(Count)
}

fn take<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(mut list: A, most: usize) -> Result<Vec<T>, A::Error> {
    let mut kept = Vec::new();
    while kept.len() < most {
        match list.next_element()? {
            Some(element) => kept.push(element),
            None => return Ok(kept),
        }
    }
    while list.next_element::<IgnoredAny>()?.is_some() {}
    Ok(kept)
}
