//! Tokenisers against slow, obvious references, over small vocabularies made for the purpose.

use proptest::prelude::*;

use super::*;

const TEXT: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: false,
};
const ALL: EncodeOptions = EncodeOptions {
    add_special: true,
    parse_special: true,
};
const RAW: DetokenizeOptions = DetokenizeOptions {
    special: false,
    at_start: false,
};

fn entry(text: &str, score: f32, kind: TokenKind) -> TokenEntry {
    TokenEntry {
        text: text.into(),
        score,
        kind,
    }
}

fn byte_entries() -> impl Iterator<Item = TokenEntry> {
    (0..=255u8).map(|byte| entry(&format!("<0x{byte:02X}>"), 0.0, TokenKind::Byte))
}

/// Unknown, begin, end, 256 bytes, then `words` with falling scores from `-0`.
fn spm(words: &[(&str, f32)]) -> Vocabulary {
    let mut tokens = vec![
        entry("<unk>", 0.0, TokenKind::Unknown),
        entry("<s>", 0.0, TokenKind::Control),
        entry("</s>", 0.0, TokenKind::Control),
    ];
    tokens.extend(byte_entries());
    tokens.extend(
        words
            .iter()
            .map(|&(text, score)| entry(text, score, TokenKind::Normal)),
    );
    let mut vocabulary = Vocabulary::new(VocabularyKind::Spm, tokens);
    vocabulary.special.unknown = Some(0);
    vocabulary.special.begin = Some(1);
    vocabulary.special.end = Some(2);
    vocabulary.add_begin = true;
    vocabulary.add_space_prefix = true;
    vocabulary
}

const SPM_WORDS: u32 = 3 + 256;

/// The byte alphabet, then what the merges make.
fn bpe(merges: &[(&str, &str)]) -> Vocabulary {
    let mut characters: Vec<(u8, char)> = (0..0x200)
        .filter_map(char::from_u32)
        .filter_map(|c| Some((byte_level::byte_of(c)?, c)))
        .collect();
    characters.sort_unstable();
    let mut tokens: Vec<TokenEntry> = characters
        .iter()
        .map(|(_, c)| entry(&c.to_string(), 0.0, TokenKind::Normal))
        .collect();
    tokens.extend(
        merges
            .iter()
            .map(|(l, r)| entry(&[*l, *r].concat(), 0.0, TokenKind::Normal)),
    );
    let mut vocabulary = Vocabulary::new(VocabularyKind::Bpe, tokens);
    vocabulary.merges = merges.iter().map(|(l, r)| Merge::new(l, r)).collect();
    vocabulary.pre_tokenizer = "gpt-2".to_owned();
    vocabulary
}

fn encode(vocabulary: &Vocabulary, text: &str, options: EncodeOptions) -> Vec<u32> {
    Tokenizer::new(vocabulary)
        .unwrap()
        .encode(text, options)
        .unwrap()
}

#[test]
fn spm_merges_the_highest_score_first_then_the_leftmost() {
    let words = [
        ("▁", -9.0),
        ("a", -9.0),
        ("b", -9.0),
        ("ab", -2.0),
        ("ba", -1.0),
        ("▁a", -3.0),
        ("aa", -4.0),
    ];
    let vocabulary = spm(&words);
    let id = |n| SPM_WORDS + n;
    assert_eq!(encode(&vocabulary, "aba", TEXT), [id(5), id(4)]);
    assert_eq!(encode(&vocabulary, "aaa", TEXT), [id(5), id(6)]);
    assert_eq!(
        encode(&vocabulary, "ab ba", TEXT),
        [id(0), id(3), id(0), id(4)]
    );
}

#[test]
fn spm_writes_bytes_for_characters_without_a_token_and_unknown_where_these_lack() {
    let mut vocabulary = spm(&[("▁", 0.0)]);
    assert_eq!(
        encode(&vocabulary, "é\n", TEXT),
        [SPM_WORDS, 3 + 0xC3, 3 + 0xA9, 3 + 0x0A]
    );

    vocabulary.tokens[3 + 0xA9].kind = TokenKind::Unused;
    assert_eq!(encode(&vocabulary, "é", TEXT), [SPM_WORDS, 3 + 0xC3, 0]);

    vocabulary.special.unknown = None;
    let tokenizer = Tokenizer::new(&vocabulary).unwrap();
    let mut out = vec![7];
    let error = tokenizer.encode_into("é", TEXT, &mut out).unwrap_err();
    assert_eq!(
        error.to_string(),
        "byte 0xA9 has no token, and the vocabulary has no unknown token"
    );
    assert_eq!(out, [7]);
}

#[test]
fn begin_and_end_are_added_and_special_text_read_only_when_asked() {
    let mut vocabulary = spm(&[("▁", 0.0), ("▁a", -1.0), ("a", -2.0)]);
    vocabulary.add_end = true;
    let a = SPM_WORDS + 1;
    assert_eq!(encode(&vocabulary, "", TEXT), [0; 0]);
    assert_eq!(encode(&vocabulary, "", ALL), [1, 2]);
    assert_eq!(encode(&vocabulary, "a</s>a", ALL), [1, a, 2, a, 2]);
    let plain = encode(&vocabulary, "</s>", TEXT);
    assert_eq!(plain, [SPM_WORDS, 3 + 0x3C, 3 + 0x2F, 3 + 0x73, 3 + 0x3E]);
}

#[test]
fn user_defined_tokens_are_always_one_token() {
    let mut vocabulary = bpe(&[("a", "b")]);
    vocabulary
        .tokens
        .push(entry("a b", 0.0, TokenKind::UserDefined));
    assert_eq!(encode(&vocabulary, "aba bab", TEXT), [256, 257, 256]);
}

#[test]
fn bpe_merges_within_words_by_rank() {
    let vocabulary = bpe(&[("b", "c"), ("a", "b"), ("Ġ", "a"), ("Ġa", "bc")]);
    assert_eq!(encode(&vocabulary, "abc", TEXT), [u32::from(b'a'), 256]);
    assert_eq!(encode(&vocabulary, "ab abc", TEXT), [257, 259]);
}

#[test]
fn whole_words_are_taken_without_merges_where_the_pre_tokenizer_says_so() {
    let mut vocabulary = bpe(&[]);
    vocabulary
        .tokens
        .push(entry("Ġword", 0.0, TokenKind::Normal));
    assert_eq!(encode(&vocabulary, " word", TEXT).len(), 5);
    vocabulary.pre_tokenizer = "llama-bpe".to_owned();
    assert_eq!(encode(&vocabulary, " word", TEXT), [256]);
}

#[test]
fn merges_may_pass_through_parts_that_are_no_tokens() {
    let mut vocabulary = bpe(&[("a", "b"), ("ab", "c")]);
    vocabulary.tokens.remove(256);
    assert_eq!(encode(&vocabulary, "abc", TEXT), [256]);
    assert_eq!(
        encode(&vocabulary, "abd", TEXT),
        "abd".bytes().map(u32::from).collect::<Vec<_>>()
    );
}

#[test]
fn a_missing_byte_is_an_error_or_the_unknown_token() {
    let mut vocabulary = bpe(&[]);
    vocabulary.tokens[usize::from(b'q')].text = "Ġĉ".into();
    let tokenizer = Tokenizer::new(&vocabulary).unwrap();
    let error = tokenizer.encode("aq", TEXT).unwrap_err();
    assert!(matches!(
        error,
        TokenizeError::ByteWithoutToken { byte: b'q' }
    ));
    vocabulary.special.unknown = Some(0);
    assert_eq!(encode(&vocabulary, "aq", TEXT), [u32::from(b'a'), 0]);
}

#[test]
fn equal_and_empty_tokens_are_harmless() {
    let mut vocabulary = bpe(&[("a", "b")]);
    for text in ["ab", "", "a"] {
        vocabulary.tokens.push(entry(text, 0.0, TokenKind::Normal));
        vocabulary
            .tokens
            .push(entry(text, 0.0, TokenKind::UserDefined));
    }
    vocabulary
        .merges
        .extend([Merge::new("", "a"), Merge::new("a", ""), Merge::new("", "")]);
    let tokenizer = Tokenizer::new(&vocabulary).unwrap();
    assert_eq!(
        tokenizer.encode("xab", TEXT).unwrap(),
        [u32::from(b'x'), 258]
    );
    assert_eq!(tokenizer.decode(&[259, 260, 261, 257], RAW).unwrap(), "aab");

    let mut vocabulary = spm(&[("▁", 0.0), ("", 1.0), ("aa", 2.0), ("aa", 3.0), ("a", 0.0)]);
    vocabulary.tokens.push(entry("", 0.0, TokenKind::Control));
    assert_eq!(
        encode(&vocabulary, "aa", ALL),
        [1, SPM_WORDS, SPM_WORDS + 2]
    );
}

#[test]
fn infinite_scores_are_an_order_like_any_other() {
    let words = [
        ("▁", 0.0),
        ("a", 0.0),
        ("b", 0.0),
        ("ab", f32::INFINITY),
        ("ba", f32::NEG_INFINITY),
        ("▁a", 1e30),
    ];
    assert_eq!(
        encode(&spm(&words), "aba", TEXT),
        [SPM_WORDS, SPM_WORDS + 3, SPM_WORDS + 1]
    );
}

#[test]
fn ids_out_of_range_are_named() {
    let tokenizer = Tokenizer::new(&bpe(&[("a", "b")])).unwrap();
    let error = tokenizer.decode(&[97, 257], RAW).unwrap_err();
    assert_eq!(
        error.to_string(),
        "token id 257 is out of range: the vocabulary has 257 tokens"
    );
    assert!(tokenizer.pieces(&[u32::MAX]).is_err());
    assert_eq!(tokenizer.kind(257), None);
}

#[test]
fn parts_of_merges_that_are_no_tokens_have_no_id_outside() {
    let mut vocabulary = bpe(&[("a", "b"), ("ab", "c")]);
    vocabulary.tokens.truncate(256);
    let tokenizer = Tokenizer::new(&vocabulary).unwrap();
    assert_eq!(tokenizer.encode("abc", TEXT).unwrap(), [97, 98, 99]);
    assert!(tokenizer.piece(256).is_err());
    assert!(tokenizer.decode(&[256], RAW).is_err());
}

/// Unknown and two named tokens, then `words`.
fn wordpiece(words: &[&str]) -> Vocabulary {
    let mut tokens = vec![
        entry("[UNK]", 0.0, TokenKind::Control),
        entry("[CLS]", 0.0, TokenKind::Control),
        entry("[SEP]", 0.0, TokenKind::Control),
    ];
    tokens.extend(words.iter().map(|word| TokenEntry::normal(*word)));
    let mut vocabulary = Vocabulary::new(VocabularyKind::WordPiece, tokens);
    [
        vocabulary.special.unknown,
        vocabulary.special.begin,
        vocabulary.special.separator,
    ] = [Some(0), Some(1), Some(2)];
    (vocabulary.add_begin, vocabulary.add_end) = (true, true);
    (vocabulary.lowercase, vocabulary.strip_accents) = (true, true);
    vocabulary
}

#[test]
fn wordpiece_takes_the_longest_token_from_the_left_or_none() {
    let vocabulary = wordpiece(&["▁a", "▁ab", "b", "bc", "c", "▁."]);
    assert_eq!(encode(&vocabulary, "abc ab", ALL), [1, 4, 7, 4, 2]);
    assert_eq!(encode(&vocabulary, "abd a", TEXT), [0, 3]);
    assert_eq!(encode(&vocabulary, "bc.a", TEXT), [0, 8, 3]);
    assert_eq!(encode(&vocabulary, " \n", TEXT), [0; 0]);
    assert_eq!(
        encode(&vocabulary, &format!("a{}", "b".repeat(99)), TEXT).len(),
        99
    );
    assert_eq!(
        encode(&vocabulary, &format!("a{}", "b".repeat(100)), TEXT),
        [0]
    );
    assert_eq!(encode(&vocabulary, "[SEP]", ALL), [1, 2, 2]);
}

#[test]
fn wordpiece_folds_case_and_accents_only_where_the_vocabulary_says_so() {
    let mut vocabulary = wordpiece(&["▁e", "▁E", "▁é", "▁中"]);
    assert_eq!(
        encode(&vocabulary, "É中\u{200D}e\u{301}\u{7}E", TEXT),
        [3, 6, 0]
    );
    assert_eq!(encode(&vocabulary, "É e", TEXT), [3, 3]);
    vocabulary.strip_accents = false;
    assert_eq!(encode(&vocabulary, "É", TEXT), [5]);
    vocabulary.lowercase = false;
    assert_eq!(encode(&vocabulary, "E e", TEXT), [4, 3]);
}

#[test]
fn a_word_without_tokens_is_named_where_there_is_no_unknown_token() {
    let mut vocabulary = wordpiece(&["▁a"]);
    vocabulary.special.unknown = None;
    let error = Tokenizer::new(&vocabulary)
        .unwrap()
        .encode("a bb", TEXT)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the word 'bb' has no token, and the vocabulary has no unknown token"
    );
}

#[test]
fn wordpiece_text_is_its_words_with_spaces_between() {
    let tokenizer = Tokenizer::new(&wordpiece(&["▁ab", "c", "▁."])).unwrap();
    let ids = tokenizer.encode("ABC ab.", ALL).unwrap();
    let at_start = DetokenizeOptions {
        special: false,
        at_start: true,
    };
    assert_eq!(tokenizer.decode(&ids, at_start).unwrap(), "abc ab .");
}

#[test]
fn tokens_that_are_not_utf_8_are_rendered_byte_by_byte_and_match_no_part_of_a_character() {
    for kind in [
        VocabularyKind::Spm,
        VocabularyKind::Bpe,
        VocabularyKind::WordPiece,
    ] {
        let mut vocabulary = spm(&[]);
        vocabulary.kind = kind;
        let halves = [b"\xC3".as_slice(), b"\xA9"];
        for kind in [
            TokenKind::UserDefined,
            TokenKind::Normal,
            TokenKind::Control,
        ] {
            vocabulary.tokens.extend(halves.map(|half| TokenEntry {
                text: half.into(),
                score: 0.0,
                kind,
            }));
        }
        let tokenizer = Tokenizer::new(&vocabulary).unwrap();
        let ids = tokenizer
            .encode(
                "é",
                EncodeOptions {
                    add_special: false,
                    parse_special: true,
                },
            )
            .unwrap();
        assert!(!ids.is_empty());
        assert_eq!(
            tokenizer.decode(&[SPM_WORDS, SPM_WORDS + 3], RAW).unwrap(),
            "é"
        );
    }
}

#[test]
fn special_tokens_are_rendered_only_when_asked() {
    let tokenizer = Tokenizer::new(&spm(&[("▁", 0.0), ("▁a", -1.0)])).unwrap();
    let ids = [1, SPM_WORDS + 1, 2, SPM_WORDS + 1];
    let decode = |special, at_start| {
        tokenizer
            .decode(&ids, DetokenizeOptions { special, at_start })
            .unwrap()
    };
    assert_eq!(decode(false, false), " a a");
    assert_eq!(decode(false, true), "a a");
    assert_eq!(decode(true, false), "<s> a</s> a");
    assert_eq!(
        tokenizer.pieces(&[1, SPM_WORDS + 1, 3 + 0xC3]).unwrap(),
        ["<s>", " a", "\u{FFFD}"]
    );
}

#[test]
fn generation_ends_at_named_and_at_well_known_tokens() {
    let mut vocabulary = spm(&[("<|eot_id|>", 0.0)]);
    vocabulary
        .tokens
        .push(entry("<|im_end|>", 0.0, TokenKind::Control));
    let tokenizer = Tokenizer::new(&vocabulary).unwrap();
    let ends: Vec<u32> = (0..tokenizer.token_count())
        .filter(|&id| tokenizer.ends_generation(id))
        .collect();
    assert_eq!(ends, [2, SPM_WORDS + 1]);
}

#[test]
fn a_character_is_rendered_when_its_last_byte_arrives() {
    let tokenizer = Tokenizer::new(&spm(&[])).unwrap();
    let mut stream = tokenizer.detokenizer(RAW);
    let mut shown = Vec::new();
    for byte in "é🦙".bytes().chain([0xE2, 0x82, b'x', 0xF0, 0x9F]) {
        shown.push(stream.push(3 + u32::from(byte)).unwrap().to_owned());
    }
    assert_eq!(
        shown,
        ["", "é", "", "", "", "🦙", "", "", "\u{FFFD}x", "", ""]
    );
    assert_eq!(stream.finish(), "\u{FFFD}");
    assert_eq!(stream.finish(), "");
}

/// `a`, `aa`, `aaaa` and so on.
fn doubling(count: u32) -> Vec<String> {
    (0..count).map(|power| "a".repeat(1 << power)).collect()
}

// A quadratic merge or pre-tokeniser would take hours over these texts.

#[test]
fn a_megabyte_of_one_letter_is_merged_by_rank() {
    let words = doubling(12);
    let merges: Vec<(&str, &str)> = words
        .iter()
        .map(|half| (half.as_str(), half.as_str()))
        .collect();
    let tokens = encode(&bpe(&merges), &"a".repeat(1 << 20), TEXT);
    assert_eq!(tokens, vec![256 + 11; 1 << 8]);
}

#[test]
fn a_megabyte_of_one_letter_is_merged_by_score() {
    let doubling = doubling(12);
    let mut words: Vec<(&str, f32)> = vec![("▁", 0.0)];
    words.extend(
        doubling
            .iter()
            .map(|word| (word.as_str(), -(word.len() as f32))),
    );
    let mut vocabulary = spm(&words);
    vocabulary.add_space_prefix = false;
    let tokens = encode(&vocabulary, &"a".repeat(1 << 20), TEXT);
    assert_eq!(tokens, vec![SPM_WORDS + 12; 1 << 9]);
}

#[test]
fn a_megabyte_of_one_letter_is_one_unknown_word() {
    assert_eq!(
        encode(&wordpiece(&["▁a", "a"]), &"a".repeat(1 << 20), TEXT),
        [0]
    );
}

#[test]
fn a_megabyte_of_blanks_or_signs_is_cut_into_words() {
    let all = pre_tokenize::names();
    for name in all
        .into_iter()
        .filter(|name| pre_tokenize::representative(name) == Some(name))
    {
        let pre_tokenizer = pre_tokenize::PreTokenizer::named(name).unwrap();
        for sign in [" ", "\n", "é", "."] {
            let text = sign.repeat((1 << 20) / sign.len());
            let mut words = Vec::new();
            pre_tokenizer.split(&text, &mut words);
            let alone = (1 << 20) / sign.len();
            assert!(words.len() == 1 || words.len() == alone, "{name} {sign:?}");
            assert_eq!(
                words.iter().map(ExactSizeIterator::len).sum::<usize>(),
                1 << 20
            );
        }
    }
}

/// Merges one pair at a time: the best-ranked rule, at its leftmost place, found by looking at every pair.
fn slow_bpe(merges: &[(String, String)], word: &str) -> Vec<String> {
    let mut parts: Vec<String> = word.chars().map(String::from).collect();
    loop {
        let rank = |l: &String, r: &String| merges.iter().position(|(a, b)| a == l && b == r);
        let ranked =
            (1..parts.len()).filter_map(|at| Some((rank(&parts[at - 1], &parts[at])?, at)));
        let Some((_, at)) = ranked.min() else {
            return parts;
        };
        let right = parts.remove(at);
        parts[at - 1].push_str(&right);
    }
}

/// Merges one pair at a time: the token of highest score, at its leftmost place.
fn slow_spm(words: &[(String, f32)], text: &str) -> Vec<String> {
    let mut parts: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for at in 1..parts.len() {
            let joined = [parts[at - 1].as_str(), parts[at].as_str()].concat();
            if let Some((_, score)) = words.iter().find(|(word, _)| *word == joined)
                && best.is_none_or(|(highest, _)| *score > highest)
            {
                best = Some((*score, at));
            }
        }
        let Some((_, at)) = best else { return parts };
        let right = parts.remove(at);
        parts[at - 1].push_str(&right);
    }
}

proptest! {
    // Each case compiles a pre-tokeniser.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases / 4))]

    #[test]
    fn bpe_equals_the_slow_reference(
        merges in prop::collection::vec(("[abc]{1,3}", "[abc]{1,3}"), 0..24),
        word in "[abc]{0,24}",
    ) {
        let pairs: Vec<(&str, &str)> = merges.iter().map(|(l, r)| (l.as_str(), r.as_str())).collect();
        let tokenizer = Tokenizer::new(&bpe(&pairs)).unwrap();
        let found = tokenizer.pieces(&tokenizer.encode(&word, TEXT).unwrap()).unwrap();
        prop_assert_eq!(found, slow_bpe(&merges, &word));
    }

    #[test]
    fn spm_equals_the_slow_reference(
        words in prop::collection::vec(("[abé]{2,4}", -3i8..3), 0..24),
        text in "[abé]{0,24}",
    ) {
        let words: Vec<(String, f32)> = words.into_iter().map(|(word, score)| (word, f32::from(score))).collect();
        let mut all = vec![("a", 0.0), ("b", 0.0), ("é", 0.0)];
        all.extend(words.iter().map(|(word, score)| (word.as_str(), *score)));
        let mut vocabulary = spm(&all);
        vocabulary.add_space_prefix = false;
        let tokenizer = Tokenizer::new(&vocabulary).unwrap();
        let found = tokenizer.pieces(&tokenizer.encode(&text, TEXT).unwrap()).unwrap();
        prop_assert_eq!(found, slow_spm(&words, &text));
    }

    #[test]
    fn bpe_text_survives_the_round_trip(
        text in any::<String>(),
        merges in prop::collection::vec(("[a-zĠÃ]{1,2}", "[a-z©]{1,2}"), 0..24),
        name in prop::sample::select(pre_tokenize::names()),
    ) {
        let pairs: Vec<(&str, &str)> = merges.iter().map(|(l, r)| (l.as_str(), r.as_str())).collect();
        let mut vocabulary = bpe(&pairs);
        vocabulary.pre_tokenizer = name.to_owned();
        let tokenizer = Tokenizer::new(&vocabulary).unwrap();
        let ids = tokenizer.encode(&text, TEXT).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids, RAW).unwrap(), text);
    }

    #[test]
    fn spm_text_survives_the_round_trip(text in any::<String>(), prefix: bool) {
        let mut vocabulary = spm(&[("▁", -9.0), ("▁▁", -1.0), ("a", -9.0), ("▁a", -2.0)]);
        vocabulary.add_space_prefix = prefix;
        let tokenizer = Tokenizer::new(&vocabulary).unwrap();
        let ids = tokenizer.encode(&text, TEXT).unwrap();
        let options = DetokenizeOptions { special: false, at_start: true };
        prop_assert_eq!(tokenizer.decode(&ids, options).unwrap(), text.replace('▁', " "));
    }

    #[test]
    fn a_stream_renders_the_same_as_all_bytes_at_once(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let tokenizer = Tokenizer::new(&spm(&[])).unwrap();
        let ids: Vec<u32> = bytes.iter().map(|&byte| 3 + u32::from(byte)).collect();
        prop_assert_eq!(tokenizer.decode(&ids, RAW).unwrap(), String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_vocabulary_is_refused_or_used_without_a_panic(
        tokens in prop::collection::vec(("[ab▁Ġ<>0xA]{0,6}", any::<f32>(), 0..6usize), 0..16),
        merges in prop::collection::vec(("[abĠ]{0,3}", "[abĠ]{0,3}"), 0..8),
        ids in prop::array::uniform3(prop::option::of(0..20u32)),
        kind in prop::sample::select(vec![VocabularyKind::Spm, VocabularyKind::Bpe, VocabularyKind::WordPiece]),
        flags in any::<[bool; 3]>(),
        text in "[ab ▁é<>]{0,16}",
    ) {
        use TokenKind::{Byte, Control, Normal, Unknown, Unused, UserDefined};
        let kinds = [Normal, Unknown, Control, UserDefined, Unused, Byte];
        let tokens = tokens.iter().map(|(text, score, kind)| entry(text, *score, kinds[*kind])).collect();
        let mut vocabulary = Vocabulary::new(kind, tokens);
        vocabulary.merges = merges.iter().map(|(l, r)| Merge::new(l, r)).collect();
        [vocabulary.special.begin, vocabulary.special.end, vocabulary.special.unknown] = ids;
        [vocabulary.add_begin, vocabulary.add_end, vocabulary.add_space_prefix] = flags;
        if let Ok(tokenizer) = Tokenizer::new(&vocabulary) {
            for parse_special in [false, true] {
                let options = EncodeOptions { add_special: true, parse_special };
                if let Ok(ids) = tokenizer.encode(&text, options) {
                    prop_assert!(ids.iter().all(|&id| id < tokenizer.token_count()));
                    prop_assert!(tokenizer.decode(&ids, RAW).is_ok());
                }
            }
        }
    }
}
