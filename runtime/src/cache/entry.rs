//! The form of a file in the cache.
//!
//! All numbers are little endian: 8 bytes [`MAGIC`], the key's 32 bytes, the lengths of the compatibility bytes
//! and of the blob as u64, both of these, and the BLAKE3 hash of all before it.

use super::Key;

const MAGIC: &[u8; 8] = b"anpucmp1";
const HASH: usize = 32;
const HEAD: usize = MAGIC.len() + HASH + 8 + 8;

/// A file's bytes.
pub(super) fn encode(key: &Key, compatibility: &[u8], blob: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + compatibility.len() + blob.len() + HASH);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(key.bytes());
    bytes.extend_from_slice(&(compatibility.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&(blob.len() as u64).to_le_bytes());
    bytes.extend_from_slice(compatibility);
    bytes.extend_from_slice(blob);
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

/// The blob of a file that was written for `key`, or what is wrong with it.
pub(super) fn decode(mut bytes: Vec<u8>, key: &Key) -> Result<Vec<u8>, String> {
    let Some(body) = bytes.len().checked_sub(HASH).filter(|&n| n >= HEAD) else {
        return Err(format!(
            "it has {} bytes, fewer than the {} of an empty one",
            bytes.len(),
            HEAD + HASH
        ));
    };
    if !bytes.starts_with(MAGIC) {
        return Err("it is no compiled form of this version".into());
    }
    if blake3::hash(&bytes[..body]).as_bytes() != &bytes[body..] {
        return Err("it is damaged: its hash is another".into());
    }
    if &bytes[MAGIC.len()..MAGIC.len() + HASH] != key.bytes() {
        return Err("it was written under another name".into());
    }
    let number = |at: usize| {
        let bytes: [u8; 8] = bytes[at..at + 8].try_into().unwrap_or_default();
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    let lengths = number(HEAD - 16).zip(number(HEAD - 8));
    let end = lengths.and_then(|(a, b)| HEAD.checked_add(a)?.checked_add(b));
    let (Some((compatibility, _)), true) = (lengths, end == Some(body)) else {
        return Err(format!("its parts do not make up its {body} bytes"));
    };
    bytes.truncate(body);
    bytes.drain(..HEAD + compatibility);
    Ok(bytes)
}
