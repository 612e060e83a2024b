//! The pre-tokenisers, by the names that GGUF files give them.
//!
//! The expressions are the `pre_tokenizer` members of the `tokenizer.json` files that the models were published with, as
//! far as these are known; names and groups are those of the key `tokenizer.ggml.pre`.

/// A pre-tokeniser of the table.
pub(super) struct Definition {
    /// Its names in model files.
    pub(super) names: &'static [&'static str],
    pub(super) stages: &'static [Stage],
    /// A word that is a token is taken whole even where merges would not lead to it.
    pub(super) whole_words: bool,
    /// Models that use it begin with a begin token even where the file doesn't say so.
    pub(super) adds_begin: bool,
}

/// One regular expression of a pre-tokeniser.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stage {
    pub(super) pattern: &'static str,
    pub(super) blanks: Blanks,
}

/// Which matches that end in a blank are the plain `\s+` whose last blank a following word takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Blanks {
    /// None: the pattern has no `\s+`.
    Never,
    /// All.
    All,
    /// Those that don't end in a line break, as another branch matches these.
    WithoutLineBreak,
}

impl Stage {
    /// A pattern without `\s+`.
    const fn plain(pattern: &'static str) -> Self {
        Stage {
            pattern,
            blanks: Blanks::Never,
        }
    }

    /// A pattern that ends in `\s+` and takes line breaks by another branch.
    const fn lines(pattern: &'static str) -> Self {
        Stage {
            pattern,
            blanks: Blanks::WithoutLineBreak,
        }
    }
}

impl Definition {
    const fn new(names: &'static [&'static str], stages: &'static [Stage]) -> Self {
        Definition {
            names,
            stages,
            whole_words: false,
            adds_begin: false,
        }
    }

    const fn whole_words(self) -> Self {
        Definition {
            whole_words: true,
            ..self
        }
    }

    const fn with_begin(self) -> Self {
        Definition {
            adds_begin: true,
            ..self
        }
    }
}

/// Ordinary words: contractions, letters, digits and signs with the space before, blanks.
const GPT_2: Stage = Stage {
    pattern: r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+",
    blanks: Blanks::All,
};
/// Digits one by one.
const DIGIT: Stage = Stage::plain(r"\p{N}");
/// Digits in threes from the left.
const UP_TO_THREE_DIGITS: Stage = Stage::plain(r"\p{N}{1,3}");
/// Words with the sign before; digits in threes; signs with the line breaks after; line breaks with the blanks before.
const LLAMA_3: Stage = Stage::lines(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
);
/// As [`LLAMA_3`], digits in runs of any length.
const MINICPM_5: Stage = Stage::lines(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
);
/// As [`LLAMA_3`], digits one by one.
const QWEN_2: Stage = Stage::lines(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
);
/// As [`QWEN_2`], with combining marks as part of words.
const QWEN_35: Stage = Stage::lines(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
);
/// As [`QWEN_2`], one line break at a time.
const BAILING: Stage = Stage::lines(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+",
);
/// As [`QWEN_2`], signs without the line breaks after them.
const SEED_CODER: Stage = Stage::lines(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+",
);
/// As [`QWEN_2`], letters with their marks, and single spaces between letters within words.
const EXAONE_MOE: Stage = Stage::lines(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+",
);
/// Words cut where small letters are followed by large ones; contractions belong to words; digits in threes.
const GPT_4O: Stage = Stage::lines(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
);
/// As [`GPT_4O`], without contractions, digits one by one.
const TEKKEN: Stage = Stage::lines(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+",
);
/// Runs of punctuation and of these signs.
const PUNCTUATION: Stage = Stage::plain(r"[\p{P}$+<=>^~|]+");
/// As [`PUNCTUATION`], with the grave accent.
const FALCON_PUNCTUATION: Stage = Stage::plain(r"[\p{P}$+<=>^~|`]+");
/// Runs of digits.
const NUMBER: Stage = Stage::plain(r"\p{N}+");
/// ASCII digits in threes.
const THREE_DIGITS: Stage = Stage::plain("[0-9]{3}");
/// Line breaks one by one.
const LINE_BREAK: Stage = Stage::plain(r"[\r\n]");
/// Runs of ideographs, kana and hangul.
const EAST_ASIAN: Stage = Stage::plain(r"[\u{4E00}-\u{9FA5}\u{800}-\u{4E00}\u{AC00}-\u{D7FF}]+");
/// Runs of ideographs and kana.
const IDEOGRAPHS_AND_KANA: Stage =
    Stage::plain(r"[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+");
/// Letters of scripts with two cases, with the blank before.
const DEEPSEEK_LETTERS: Stage = Stage::plain(concat!(
    r"\s?[A-Za-z\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}\u{1BC}-\u{1BF}\u{1C4}-\u{293}",
    r"\u{295}-\u{2AF}\u{370}-\u{373}\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}\u{388}-\u{38A}",
    r"\u{38C}\u{38E}-\u{3A1}\u{3A3}-\u{3F5}\u{3F7}-\u{481}\u{48A}-\u{52F}\u{531}-\u{556}\u{10A0}-\u{10C5}",
    r"\u{13A0}-\u{13F5}\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}\u{1D00}-\u{1D2B}",
    r"\u{1D6B}-\u{1D77}\u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}",
    r"\u{1F48}-\u{1F4D}\u{1F50}-\u{1F57}\u{1F59}\u{1F5B}\u{1F5D}\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}",
    r"\u{1FB6}-\u{1FBC}\u{1FBE}\u{1FC2}-\u{1FC4}\u{1FC6}-\u{1FCC}\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}",
    r"\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}\u{1FF6}-\u{1FFC}\u{2102}\u{2107}\u{210A}-\u{2113}\u{2115}",
    r"\u{2119}-\u{211D}\u{2124}\u{2126}\u{2128}\u{212A}-\u{212D}\u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}",
    r"\u{2145}-\u{2149}\u{214E}\u{2183}\u{2184}\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}\u{2CEB}-\u{2CEE}",
    r"\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}\u{A680}-\u{A69B}\u{A722}-\u{A76F}\u{A771}-\u{A787}\u{A78B}-\u{A78E}",
    r"\u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}\u{FF21}-\u{FF3A}\u{FF41}-\u{FF5A}",
    r"\u{10400}-\u{1044F}\u{104B0}-\u{104D3}\u{104D8}-\u{104FB}\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}",
    r"\u{118A0}-\u{118DF}\u{1E900}-\u{1E943}]+",
));
/// Signs, with the blank before.
const DEEPSEEK_SIGNS: Stage = Stage::plain(
    r"\s?[!-/:-~\u{FF01}-\u{FF0F}\u{FF1A}-\u{FF5E}\u{2018}-\u{201F}\u{3000}-\u{3002}]+",
);
/// Blanks at the end of a piece.
const LAST_BLANKS: Stage = Stage::plain(r"\s+$");
/// Words with one sign before them; runs of signs; blanks. Digits are cut before.
const DEEPSEEK_3: Stage = Stage::lines(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+"##,
);
/// Everything but blanks and these marks, with the space before.
const BLOOM: Stage =
    Stage::plain(r" ?[^(\s|.,!?\u{2026}\u{3002}\u{FF0C}\u{3001}\u{964}\u{6D4}\u{60C})]+");
/// Lines and the breaks between them.
const LINES: Stage = Stage::plain(r"[^\n]+|[\n]+");

/// All of them.
pub(super) const TABLE: &[Definition] = &[
    Definition::new(&["default"], &[PUNCTUATION, GPT_2, NUMBER, THREE_DIGITS]),
    Definition::new(
        &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "exaone4",
            "gigachat",
            "mellum",
            "modern-bert",
            "a.x-4.0",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
        ],
        &[GPT_2],
    ),
    Definition::new(
        &[
            "starcoder",
            "refact",
            "command-r",
            "smollm",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        &[DIGIT, GPT_2],
    ),
    Definition::new(&["falcon"], &[FALCON_PUNCTUATION, GPT_2, THREE_DIGITS]),
    Definition::new(
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        &[LLAMA_3],
    )
    .whole_words()
    .with_begin(),
    Definition::new(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[LLAMA_3]),
    Definition::new(&["glm4", "glm5"], &[LLAMA_3]).whole_words(),
    Definition::new(&["minicpm5"], &[UP_TO_THREE_DIGITS, MINICPM_5]).whole_words(),
    Definition::new(
        &[
            "qwen2",
            "stablelm2",
            "deepseek-r1-qwen",
            "megrez",
            "hunyuan",
            "kormo",
            "f2llmv2",
            "solar-open",
            "grok-2",
        ],
        &[QWEN_2],
    ),
    Definition::new(&["qwen35"], &[QWEN_35]),
    Definition::new(&["gemma4"], &[LINES]),
    Definition::new(&["laguna"], &[LINES, QWEN_2]),
    Definition::new(&["bailingmoe", "bailingmoe2", "llada-moe"], &[BAILING]),
    Definition::new(&["seed-coder"], &[SEED_CODER]),
    Definition::new(&["exaone-moe"], &[EXAONE_MOE]),
    Definition::new(
        &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        &[GPT_4O],
    ),
    Definition::new(&["granite-embed-multi-97m"], &[GPT_4O]).whole_words(),
    Definition::new(&["tekken"], &[TEKKEN])
        .whole_words()
        .with_begin(),
    Definition::new(
        &["deepseek-llm"],
        &[
            LINE_BREAK,
            DEEPSEEK_LETTERS,
            DEEPSEEK_SIGNS,
            LAST_BLANKS,
            EAST_ASIAN,
            NUMBER,
        ],
    ),
    Definition::new(
        &["deepseek-coder"],
        &[
            LINE_BREAK,
            Stage::plain(r"\s?\p{L}+"),
            Stage::plain(r"\s?\p{P}+"),
            EAST_ASIAN,
            DIGIT,
        ],
    ),
    Definition::new(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        &[UP_TO_THREE_DIGITS, IDEOGRAPHS_AND_KANA, DEEPSEEK_3],
    ),
    Definition::new(&["bloom", "poro-chat", "gpt3-finnish"], &[BLOOM]),
    Definition::new(&["viking"], &[BLOOM, DIGIT]),
];
