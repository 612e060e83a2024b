//! The alphabet in which byte-level vocabularies write bytes: 256 printable characters, one a byte.
//!
//! The bytes `!`–`~`, `¡`–`¬` and `®`–`ÿ` stand for the character of the same number; the other 68, in rising order, for
//! U+0100 onward. It is the table of the GPT-2 tokenizer (`bytes_to_unicode` in its released encoder).

/// The first character of those that stand for the bytes without a printable character.
const SHIFTED: u32 = 0x100;

/// A byte that is written as the character of the same number.
const fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The bytes written as U+0100, U+0101 and so on.
const OTHERS: [u8; 68] = {
    let mut table = [0; 68];
    let (mut byte, mut count) = (0u8, 0);
    loop {
        if !is_printable(byte) {
            table[count] = byte;
            count += 1;
        }
        if byte == 0xFF {
            break table;
        }
        byte += 1;
    }
};

/// The byte that `character` stands for; None if it is not of the alphabet.
pub fn byte_of(character: char) -> Option<u8> {
    let code = character as u32;
    match u8::try_from(code) {
        Ok(byte) => is_printable(byte).then_some(byte),
        Err(_) => OTHERS.get((code - SHIFTED) as usize).copied(),
    }
}

/// The bytes that `text` stands for. A character outside the alphabet stands for its own UTF-8 bytes.
pub fn decode_into(text: &str, out: &mut Vec<u8>) {
    for character in text.chars() {
        match byte_of(character) {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_byte_has_exactly_one_character() {
        let all: Vec<u8> = (0..0x200)
            .filter_map(char::from_u32)
            .filter_map(byte_of)
            .collect();
        assert_eq!(all.len(), 256);
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 256);
    }

    #[test]
    fn well_known_characters_stand_for_their_bytes() {
        for (character, byte) in [
            ('!', b'!'),
            ('~', b'~'),
            ('Ġ', b' '),
            ('Ċ', b'\n'),
            ('Ā', 0),
            ('ġ', 0x7F),
            ('Ń', 0xAD),
        ] {
            assert_eq!(byte_of(character), Some(byte), "{character}");
        }
        for outside in [' ', '\n', '\u{AD}', '\u{144}', '日'] {
            assert_eq!(byte_of(outside), None, "{outside:?}");
        }
    }

    #[test]
    fn characters_outside_the_alphabet_stand_for_themselves() {
        let mut out = Vec::new();
        decode_into("Ġa日 ", &mut out);
        assert_eq!(out, " a日 ".as_bytes());
    }
}
