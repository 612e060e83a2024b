//! GGUF files built byte by byte, each wrong in one way (or right, to start mutations from).
//!
//! They are the reader's tests and, written out by the example `gguf_seeds`, the fuzzer's seeds.

use anynpu_graphs::import::gguf::{Fault, GgufWriter};
use anynpu_ir::DType;

/// A file and whether the reader must accept it.
pub struct Case {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    /// The reader's verdict: nothing, or a test of the fault.
    #[allow(dead_code)] // not all programs that share this module ask
    pub fault: Option<fn(&Fault) -> bool>,
}

const U32: u32 = 4;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const U64: u32 = 10;
const F32: u32 = 0;
const Q8_0: u32 = 8;

/// Bytes of a file in the making.
#[derive(Clone, Default)]
struct Raw(Vec<u8>);

impl Raw {
    /// The head of a file of version 3.
    fn new(tensors: u64, entries: u64) -> Raw {
        Raw::default()
            .bytes(b"GGUF")
            .u32(3)
            .u64(tensors)
            .u64(entries)
    }

    fn bytes(mut self, bytes: &[u8]) -> Raw {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u32(self, n: u32) -> Raw {
        self.bytes(&n.to_le_bytes())
    }

    fn u64(self, n: u64) -> Raw {
        self.bytes(&n.to_le_bytes())
    }

    fn string(self, text: &[u8]) -> Raw {
        self.u64(text.len() as u64).bytes(text)
    }

    /// A key and its value's type.
    fn key(self, key: &str, ty: u32) -> Raw {
        self.string(key.as_bytes()).u32(ty)
    }

    /// The head of an array.
    fn array(self, element: u32, len: u64) -> Raw {
        self.u32(element).u64(len)
    }

    fn tensor(self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Raw {
        let head = self.string(name.as_bytes()).u32(dims.len() as u32);
        dims.iter()
            .fold(head, |raw, &d| raw.u64(d))
            .u32(ty)
            .u64(offset)
    }

    /// Pads to the usual alignment and adds `n` bytes of data.
    fn data(mut self, n: usize) -> Raw {
        let start = self.0.len().next_multiple_of(32);
        self.0.resize(start + n, 0x3c);
        self
    }
}

/// A sound file with all that the reader looks at.
pub fn sound() -> Vec<u8> {
    Raw::new(4, 7)
        .key("general.architecture", STRING)
        .string(b"llama")
        .key("general.alignment", U32)
        .u32(32)
        .key("a.flag", BOOL)
        .bytes(&[1])
        .key("a.tokens", ARRAY)
        .array(STRING, 3)
        .string(b"<s>")
        .string(b"\xff")
        .string("▁the".as_bytes())
        .key("a.flags", ARRAY)
        .array(BOOL, 2)
        .bytes(&[0, 1])
        .key("a.nested", ARRAY)
        .array(ARRAY, 2)
        .array(U32, 2)
        .u32(1)
        .u32(2)
        .array(STRING, 1)
        .string(b"x")
        .key("a.count", U64)
        .u64(7)
        .tensor("norm", &[8], F32, 0)
        .tensor("w", &[32, 2], Q8_0, 32)
        .tensor("odd", &[4], 999, 128)
        .tensor("old", &[256], 10, 160)
        .data(256)
        .0
}

/// A llama model of one layer, as small as blocks of 32 allow.
pub fn llama() -> Vec<u8> {
    let mut plan = GgufWriter::new();
    plan.set("general.architecture", "llama").unwrap();
    plan.set("tokenizer.ggml.tokens", &["<unk>", "<s>", "</s>", "a"])
        .unwrap();
    for (key, n) in [
        ("block_count", 1u32),
        ("embedding_length", 32),
        ("feed_forward_length", 32),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("context_length", 64),
    ] {
        plan.set(&format!("llama.{key}"), &n).unwrap();
    }
    plan.set("llama.attention.layer_norm_rms_epsilon", &1e-5f32)
        .unwrap();
    let tensors = [
        ("token_embd.weight", &[32, 4][..]),
        ("output_norm.weight", &[32]),
        ("blk.0.attn_norm.weight", &[32]),
        ("blk.0.attn_q.weight", &[32, 32]),
        ("blk.0.attn_k.weight", &[32, 16]),
        ("blk.0.attn_v.weight", &[32, 16]),
        ("blk.0.attn_output.weight", &[32, 32]),
        ("blk.0.ffn_norm.weight", &[32]),
        ("blk.0.ffn_gate.weight", &[32, 32]),
        ("blk.0.ffn_up.weight", &[32, 32]),
        ("blk.0.ffn_down.weight", &[32, 32]),
    ]
    .map(|(name, dims)| match dims.len() {
        1 => (name, dims, DType::F32, 128),
        _ => (name, dims, DType::Q4_0, dims[1] as usize * 18),
    });
    for (name, dims, dtype, _) in tensors {
        plan.tensor(name, dtype, dims).unwrap();
    }
    let mut out = plan.begin(Vec::new()).unwrap();
    for (name, _, _, bytes) in tensors {
        out.append(name, &vec![0x2c; bytes]).unwrap();
    }
    out.finish().unwrap()
}

/// All cases; names are unique.
#[allow(clippy::too_many_lines)] // a list
pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    let mut bad = |name, raw: Raw, fault: fn(&Fault) -> bool| {
        all.push(Case {
            name,
            bytes: raw.0,
            fault: Some(fault),
        });
    };
    let head = |version: u32| {
        Raw::default()
            .bytes(b"GGUF")
            .u32(version)
            .u64(0)
            .u64(0)
            .data(32)
    };

    // The head.
    bad("empty", Raw::default(), |f| {
        matches!(f, Fault::Magic { .. })
    });
    bad("magic-cut", Raw::default().bytes(b"GGU"), |f| {
        matches!(f, Fault::Magic { .. })
    });
    bad("magic-wrong", head(3).clone().replaced(0, b"GGML"), |f| {
        matches!(f, Fault::Magic { .. })
    });
    bad("version-cut", Raw::default().bytes(b"GGUF\x03"), |f| {
        matches!(f, Fault::Truncated { .. })
    });
    bad("version-0", head(0), |f| {
        matches!(f, Fault::Version { version: 0 })
    });
    bad("version-1", head(1), |f| {
        matches!(f, Fault::Version { version: 1 })
    });
    bad("version-4", head(4), |f| {
        matches!(f, Fault::Version { version: 4 })
    });
    bad("version-max", head(u32::MAX), |f| {
        matches!(f, Fault::Version { .. })
    });
    bad("big-endian", head(3u32.swap_bytes()), |f| {
        matches!(f, Fault::BigEndian { version: 3 })
    });
    bad(
        "counts-cut",
        Raw::default().bytes(b"GGUF").u32(3).u64(1),
        |f| matches!(f, Fault::Truncated { .. }),
    );
    bad("tensors-max", Raw::new(u64::MAX, 0).data(64), |f| {
        matches!(f, Fault::Count { .. })
    });
    bad("entries-max", Raw::new(0, u64::MAX).data(64), |f| {
        matches!(f, Fault::Count { .. })
    });
    // 2^61 · 24 wraps to 0.
    bad("tensors-wrap", Raw::new(1 << 61, 0).data(64), |f| {
        matches!(f, Fault::Count { .. })
    });
    bad(
        "entries-one-too-many",
        Raw::new(0, 3).bytes(&[0; 38]),
        |f| matches!(f, Fault::Count { .. }),
    );

    // Metadata.
    bad("key-past-end", Raw::new(0, 1).u64(100).data(32), |f| {
        matches!(f, Fault::Truncated { .. })
    });
    bad(
        "key-length-max",
        Raw::new(0, 1).u64(u64::MAX).data(32),
        |f| matches!(f, Fault::Truncated { .. }),
    );
    bad(
        "key-too-long",
        Raw::new(0, 1).string(&[b'k'; 65536]).u32(U32).u32(1),
        |f| matches!(f, Fault::NameLength { len: 65536, .. }),
    );
    bad(
        "key-not-utf8",
        Raw::new(0, 1).string(b"a\xff").u32(U32).u32(1),
        |f| matches!(f, Fault::NotUtf8 { .. }),
    );
    bad("key-cut", Raw::new(0, 1).string(b"abcdef"), |f| {
        matches!(f, Fault::Truncated { .. })
    });
    bad("value-type-13", Raw::new(0, 1).key("k", 13).u64(0), |f| {
        matches!(f, Fault::ValueType { id: 13, .. })
    });
    bad(
        "value-type-max",
        Raw::new(0, 1).key("k", u32::MAX).u64(0),
        |f| matches!(f, Fault::ValueType { id: u32::MAX, .. }),
    );
    bad("value-cut", Raw::new(0, 1).key("k", U64).u32(0), |f| {
        matches!(f, Fault::Truncated { .. })
    });
    bad("bool-2", Raw::new(0, 1).key("k", BOOL).bytes(&[2]), |f| {
        matches!(f, Fault::Bool { found: 2, .. })
    });
    bad(
        "bool-in-array-255",
        Raw::new(0, 1)
            .key("k", ARRAY)
            .array(BOOL, 3)
            .bytes(&[0, 1, 255]),
        |f| matches!(f, Fault::Bool { found: 255, .. }),
    );
    // 51 bytes are left.
    bad(
        "string-past-end",
        Raw::new(0, 1).key("k", STRING).u64(52).data(32),
        |f| matches!(f, Fault::Truncated { .. }),
    );
    for (name, len) in [
        ("string-length-max", u64::MAX),
        // Wraps past the start of the file when added to the place it stands at.
        ("string-length-wraps", u64::MAX - 40),
        ("string-length-i64", i64::MAX as u64),
    ] {
        bad(
            name,
            Raw::new(0, 1).key("k", STRING).u64(len).data(32),
            |f| matches!(f, Fault::Truncated { .. }),
        );
    }
    bad(
        "array-element-type-13",
        Raw::new(0, 1).key("k", ARRAY).array(13, 1).u64(0),
        |f| matches!(f, Fault::ValueType { id: 13, .. }),
    );
    for (name, element, len) in [
        ("array-past-end", U32, 9),
        ("array-count-max", U32, u64::MAX),
        // 2^61 · 8 wraps to 0.
        ("array-size-wraps", U64, 1 << 61),
        ("array-strings-max", STRING, u64::MAX),
        ("array-arrays-max", ARRAY, u64::MAX),
        ("array-strings-too-many", STRING, 5),
    ] {
        let raw = Raw::new(0, 1)
            .key("k", ARRAY)
            .array(element, len)
            .bytes(&[0; 35]);
        bad(name, raw, |f| matches!(f, Fault::Count { .. }));
    }
    bad(
        "array-string-past-end",
        Raw::new(0, 1)
            .key("k", ARRAY)
            .array(STRING, 2)
            .string(b"ok")
            .u64(1 << 40)
            .data(32),
        |f| matches!(f, Fault::Truncated { .. }),
    );
    let nested = |depth: usize| {
        (1..depth)
            .fold(Raw::new(0, 1).key("k", ARRAY), |raw, _| raw.array(ARRAY, 1))
            .array(U32, 0)
    };
    bad("array-5-deep", nested(5), |f| {
        matches!(f, Fault::Depth { .. })
    });
    bad("array-2000-deep", nested(2000), |f| {
        matches!(f, Fault::Depth { .. })
    });
    bad(
        "key-twice",
        Raw::new(0, 3)
            .key("a", U32)
            .u32(1)
            .key("b", U32)
            .u32(1)
            .key("a", BOOL)
            .bytes(&[0]),
        |f| matches!(f, Fault::DuplicateKey { key } if key == "a"),
    );
    bad(
        "alignment-twice",
        Raw::new(0, 2)
            .key("general.alignment", U32)
            .u32(32)
            .key("general.alignment", U32)
            .u32(64),
        |f| matches!(f, Fault::DuplicateKey { .. }),
    );
    for (name, alignment) in [
        ("alignment-0", 0),
        ("alignment-48", 48),
        ("alignment-2-31", 1 << 31),
        ("alignment-max", u32::MAX),
    ] {
        let raw = Raw::new(1, 1)
            .key("general.alignment", U32)
            .u32(alignment)
            .tensor("w", &[8], F32, 0)
            .data(32);
        bad(name, raw, |f| matches!(f, Fault::Alignment { .. }));
    }
    bad(
        "alignment-string",
        Raw::new(0, 1)
            .key("general.alignment", STRING)
            .string(b"32"),
        |f| matches!(f, Fault::Alignment { .. }),
    );

    // Tensors.
    let one = |name: &str, dims: &[u64], ty, offset| {
        Raw::new(1, 0).tensor(name, dims, ty, offset).data(32)
    };
    bad("tensor-cut", Raw::new(1, 0).string(&[b'w'; 30]), |f| {
        matches!(f, Fault::Truncated { .. })
    });
    bad(
        "tensor-name-too-long",
        one(&"w".repeat(65), &[8], F32, 0),
        |f| matches!(f, Fault::NameLength { len: 65, .. }),
    );
    bad(
        "tensor-name-max",
        Raw::new(1, 0).u64(u64::MAX).data(64),
        |f| matches!(f, Fault::Truncated { .. }),
    );
    bad(
        "tensor-name-not-utf8",
        Raw::new(1, 0).string(b"\xc3").u32(0).u32(0).u64(0).data(32),
        |f| matches!(f, Fault::NotUtf8 { .. }),
    );
    bad("rank-5", one("w", &[1, 1, 1, 1, 1], F32, 0), |f| {
        matches!(f, Fault::Rank { rank: 5, .. })
    });
    bad(
        "rank-max",
        Raw::new(1, 0).string(b"w").u32(u32::MAX).data(64),
        |f| matches!(f, Fault::Rank { rank: u32::MAX, .. }),
    );
    bad("dimension-0", one("w", &[8, 0], F32, 0), |f| {
        matches!(f, Fault::ZeroDimension { .. })
    });
    for (name, dims, ty) in [
        ("dims-wrap-to-0", &[1 << 32, 1 << 32][..], F32),
        ("dims-wrap-to-1", &[u64::MAX, u64::MAX], F32),
        ("dims-wrap-after-type", &[1 << 62], F32),
        ("dims-wrap-blocks", &[1 << 63, 1 << 6], Q8_0),
        ("dims-wrap-unknown-type", &[1 << 40, 1 << 40], 999),
        ("dims-max", &[u64::MAX, u64::MAX, u64::MAX, u64::MAX], F32),
    ] {
        bad(name, one("w", dims, ty, 0), |f| {
            matches!(f, Fault::SizeOverflow { .. })
        });
    }
    bad("row-not-whole-blocks", one("w", &[33], Q8_0, 0), |f| {
        matches!(f, Fault::PartialBlock { .. })
    });
    bad("offset-misaligned", one("w", &[4], F32, 16), |f| {
        matches!(f, Fault::Misaligned { offset: 16, .. })
    });
    for (name, dims, ty, offset) in [
        ("data-past-end", &[9][..], F32, 0),
        ("data-starts-at-end", &[1], F32, 32),
        ("data-starts-past-end", &[1], F32, 1 << 40),
        ("data-huge", &[1 << 40], F32, 0),
        // The start of the data plus the offset wraps.
        ("offset-wraps", &[8], F32, u64::MAX - 31),
        // The offset plus the length wraps.
        ("offset-and-length-wrap", &[1 << 61], F32, 1 << 63),
        ("unknown-type-past-end", &[4], 999, 64),
    ] {
        bad(name, one("w", dims, ty, offset), |f| {
            matches!(f, Fault::OutOfRange { .. })
        });
    }
    bad(
        "data-missing",
        Raw::new(1, 0).tensor("w", &[1], F32, 0),
        |f| matches!(f, Fault::OutOfRange { .. }),
    );
    let two = |a: &str, b: &str, dims: &[u64], ty, offset| {
        Raw::new(2, 0)
            .tensor(a, dims, ty, offset)
            .tensor(b, &[8], F32, 0)
            .data(128)
    };
    bad("tensor-twice", two("w", "w", &[8], F32, 32), |f| {
        matches!(f, Fault::DuplicateTensor { .. })
    });
    bad("overlap-same", two("a", "b", &[8], F32, 0), |f| {
        matches!(f, Fault::Overlap { .. })
    });
    bad("overlap-unknown-type", two("a", "b", &[8], 999, 0), |f| {
        matches!(f, Fault::Overlap { .. })
    });
    bad(
        "overlap-by-one-block",
        Raw::new(2, 0)
            .tensor("a", &[9], F32, 0)
            .tensor("b", &[8], F32, 32)
            .data(128),
        |f| matches!(f, Fault::Overlap { first, second } if first == "a" && second == "b"),
    );

    let mut good = |name, bytes| {
        all.push(Case {
            name,
            bytes,
            fault: None,
        });
    };
    good("sound", sound());
    good("sound-llama", llama());
    good("sound-nothing-in-it", Raw::new(0, 0).0);
    good("sound-array-4-deep", nested(4).0);
    good("sound-unknown-type", one("w", &[4], 999, 0).0);
    good("sound-dropped-type", one("w", &[4], 4, 0).0);
    good("sound-scalar", one("w", &[], F32, 0).0);
    good("sound-empty-names", one("", &[4], F32, 0).0);
    good(
        "sound-large-alignment",
        Raw::new(1, 1)
            .key("general.alignment", U32)
            .u32(256)
            .tensor("w", &[8], F32, 0)
            .data(256)
            .0,
    );
    all
}

impl Raw {
    fn replaced(mut self, at: usize, bytes: &[u8]) -> Raw {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }
}
