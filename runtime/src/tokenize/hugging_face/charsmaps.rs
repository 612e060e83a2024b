//! Normalisation tables in `tokenizer.json`, checked before the library reserves what they claim to need.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::super::charsmap::Charsmap;

/// A document all of whose normalisation tables are sound. It is walked as it is written, since of members of
/// one name the library reads each.
pub(super) struct SoundCharsmaps;

impl<'de> Deserialize<'de> for SoundCharsmaps {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Walk)
    }
}

struct Walk;

impl<'de> Visitor<'de> for Walk {
    type Value = SoundCharsmaps;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        while let Some(name) = members.next_key::<String>()? {
            if name != "precompiled_charsmap" {
                members.next_value::<SoundCharsmaps>()?;
            } else if let Text(Some(text)) = members.next_value()? {
                let table = STANDARD.decode(text).map_err(A::Error::custom)?;
                Charsmap::read(&table).map_err(A::Error::custom)?;
            }
        }
        Ok(SoundCharsmaps)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        while elements.next_element::<SoundCharsmaps>()?.is_some() {}
        Ok(SoundCharsmaps)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(SoundCharsmaps)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(SoundCharsmaps)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(SoundCharsmaps)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(SoundCharsmaps)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(SoundCharsmaps)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(SoundCharsmaps)
    }
}

/// A text, or something else, which the library refuses.
struct Text(Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Either {
            Text(String),
            Other(IgnoredAny),
        }
        Ok(match Either::deserialize(from)? {
            Either::Text(text) => Text(Some(text)),
            Either::Other(_) => Text(None),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<(), String> {
        let sound = serde_json::from_str::<SoundCharsmaps>(json);
        sound.map(|_| ()).map_err(|e| e.to_string())
    }

    fn with_trie(claimed: u32, units: usize) -> String {
        let mut table = claimed.to_le_bytes().to_vec();
        table.resize(4 + 4 * units, 0);
        table.extend_from_slice(b"a\0");
        format!(
            r#"{{"precompiled_charsmap": "{}"}}"#,
            STANDARD.encode(table)
        )
    }

    #[test]
    fn a_table_that_claims_more_than_it_holds_is_refused_wherever_it_stands() {
        let (good, bad) = (with_trie(1024, 256), with_trie(1 << 30, 256));
        assert_eq!(check(&good), Ok(()));
        for document in [
            bad.clone(),
            format!(r#"{{"normalizer": {{"normalizers": [1, {bad}]}}}}"#),
            format!(r#"{{"normalizer": {bad}, "normalizer": {good}}}"#),
        ] {
            assert!(check(&document).unwrap_err().contains("longer than itself"));
        }
    }

    #[test]
    fn what_is_no_text_is_left_to_the_library() {
        assert_eq!(
            check(r#"{"precompiled_charsmap": null, "x": [true, -1, 0.5, "é", null]}"#),
            Ok(())
        );
        assert!(check(r#"{"precompiled_charsmap": "?"}"#).is_err());
    }
}
