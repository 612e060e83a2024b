//! The expressions that `tokenizer.json` files were published with, and the names that GGUF files give them.

/// Contractions in either case.
macro_rules! contractions {
    () => {
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    };
}

/// Blanks, the last of which a word after them takes.
macro_rules! blanks {
    () => {
        r"|\s+(?!\S)|\s+"
    };
}

/// Words with the sign before, signs and line breaks; contractions before, `numbers` between.
macro_rules! words {
    ($numbers:literal) => {
        concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}+|",
            $numbers,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
            blanks!()
        )
    };
}

/// Words cut where small letters are followed by large ones.
macro_rules! cased {
    ($numbers:literal, $contractions:expr) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            $contractions,
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            $contractions,
            "|",
            $numbers,
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+",
            blanks!()
        )
    };
}

/// The expression of GPT-2, which the format also knows by itself.
pub(in super::super) const GPT_2: &str = concat!(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+",
    blanks!()
);

/// Stages of a pre-tokeniser and the names of those that cut so, with and without the taking of whole words.
pub(super) const PUBLISHED: &[(&[&str], &[&str])] = &[
    (&[GPT_2], &["gpt-2"]),
    (&[r"\p{N}", GPT_2], &["smollm"]),
    (&[words!(r"\p{N}{1,3}")], &["llama-bpe", "dbrx"]),
    (&[words!(r"\p{N}")], &["qwen2"]),
    (
        &[cased!(r"\p{N}{1,3}", concat!(contractions!(), "?"))],
        &["gpt-4o", "granite-embed-multi-97m"],
    ),
    (&[cased!(r"\p{N}", "")], &["tekken"]),
    (
        &[
            r"\p{N}{1,3}",
            "[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+",
            concat!(
                r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
                r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+",
                blanks!()
            ),
        ],
        &["deepseek-v3"],
    ),
];

#[cfg(test)]
mod tests {
    use tokenizers::pre_tokenizers::PreTokenizerWrapper;
    use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
    use tokenizers::{
        OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _,
        SplitDelimiterBehavior,
    };

    use super::super::{PreTokenizer, definition, published};
    use super::*;

    /// The words that the library cuts.
    fn library(stages: &[&str], text: &str) -> Vec<String> {
        let mut cut = PreTokenizedString::from(text);
        for stage in stages {
            let pattern = SplitPattern::Regex((*stage).to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).unwrap();
            PreTokenizerWrapper::from(split)
                .pre_tokenize(&mut cut)
                .unwrap();
        }
        let words = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
        words.into_iter().map(|(w, ..)| w.to_owned()).collect()
    }

    #[test]
    fn the_named_pre_tokenizers_cut_as_the_published_expressions_do() {
        let golden = include_str!("../../../../tests/data/tokenizers/pre_tokenizers.json");
        let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
        let texts = golden["texts"].as_array().unwrap();
        assert!(texts.len() > 60);
        let mut words = Vec::new();
        for (stages, names) in PUBLISHED {
            for name in *names {
                let whole = definition(name).unwrap().whole_words;
                assert_eq!(published(stages, whole), Some(*name));
                let own = PreTokenizer::named(name).unwrap();
                for text in texts.iter().map(|t| t.as_str().unwrap()) {
                    own.split(text, &mut words);
                    let found: Vec<&str> = words.iter().map(|w| &text[w.clone()]).collect();
                    assert_eq!(found, library(stages, text), "{name} {text:?}");
                }
            }
        }
    }
}
