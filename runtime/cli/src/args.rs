//! The arguments of every command.

use std::path::PathBuf;

use anynpu_backends::coreml;
use anynpu_graphs::quant::Mixture;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::Target;

/// Run language models on every accelerator of a phone or laptop.
#[derive(Debug, Parser)]
#[command(
    name = "anynpu",
    version,
    propagate_version = true,
    after_help = "Examples:\n  \
        anynpu run                          a story from the built-in model\n  \
        anynpu run model.gguf -p 'Hello'    text from a model of yours\n  \
        anynpu devices                      what this machine has\n\n\
        MODEL is a .gguf file; left out, it is the built-in story model."
)]
pub struct Arguments {
    /// More log on standard error; repeat for still more
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub verbose: u8,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Generate text, streaming it as it comes
    #[command(after_help = "Examples:\n  anynpu run\n  \
        anynpu run model.gguf -p 'Once upon a time' -n 100 --temp 0\n  \
        anynpu run model.gguf -f prompt.txt --seed 7 --json\n  \
        anynpu run model.gguf --chat --system 'Answer briefly.'")]
    Run(RunArgs),
    /// List every driver and device found, and why a driver is not usable
    #[command(
        after_help = "Examples:\n  anynpu devices --json\n  anynpu devices --driver ./libvendor.so"
    )]
    Devices(ListArgs),
    /// Measure each device into a profile, by which plans can be priced
    #[command(after_help = "Examples:\n  anynpu probe --quick\n  \
        anynpu probe --save profile.json\n  anynpu plan model.gguf --profile profile.json")]
    Probe(ProbeArgs),
    /// Show which device will run which layers, phase by phase
    #[command(
        after_help = "Examples:\n  anynpu plan\n  anynpu plan model.gguf --prompt 128 --json"
    )]
    Plan(PlanArgs),
    /// Tell of every node what each device says of it, where it was planned to run and where it ran
    #[command(
        after_help = "Examples:\n  anynpu explain\n  anynpu explain model.gguf --device cpu --json"
    )]
    Explain(ExplainArgs),
    /// Compute next-token logits for every position of a token sequence
    #[command(
        after_help = "Examples:\n  anynpu logits model.gguf --tokens 1,403,407 --out logits.f32\n  \
        anynpu logits --tokens 1,2,3 --json"
    )]
    Logits(LogitsArgs),
    /// Show a text's token ids and pieces
    #[command(
        after_help = "Examples:\n  anynpu tokenize model.gguf -p 'Hello world'\n  \
        anynpu tokenize -p 'Once upon a time' --json"
    )]
    Tokenize(TokenizeArgs),
    /// Turn a text into a vector, or with a classifier into scores
    #[command(
        after_help = "Examples:\n  anynpu embed minilm.gguf -p 'The cat sits outside.'\n  \
        anynpu embed minilm/ -p 'I love pasta.' --pooling mean --json"
    )]
    Embed(EmbedArgs),
    /// Turn token ids back into text
    #[command(after_help = "Example:\n  anynpu detokenize model.gguf --tokens 1,403,407")]
    Detokenize(DetokenizeArgs),
    /// Show a model's metadata, tensors, quantisation and memory needs
    #[command(
        after_help = "Examples:\n  anynpu inspect model.gguf\n  anynpu inspect model.gguf --json"
    )]
    Inspect(InspectArgs),
    /// Measure prefill and decode speed
    #[command(
        after_help = "Examples:\n  anynpu bench model.gguf -p 512 -n 128 -r 5\n  \
        anynpu bench model.gguf -p 0 -n 128 --sequences 1,4,8\n  \
        anynpu bench -o jsonl"
    )]
    Bench(BenchArgs),
    /// Write a GGUF file with its weights in another type
    #[command(
        after_help = "Examples:\n  anynpu quantize model-f32.gguf model-q4.gguf --type Q4_K_M\n  \
        anynpu quantize in.gguf out.gguf --type Q4_0 --imatrix imatrix.gguf --quality text.txt\n  \
        anynpu quantize hugging-face-folder model.gguf --type Q8_0\n\n\
        Types: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K_S, Q4_K_M, Q5_K_S, Q5_K_M, Q6_K"
    )]
    Quantize(QuantizeArgs),
    /// Compile a model for a device that isn't here, into a folder that it loads
    #[command(
        after_help = "Examples:\n  anynpu compile model.gguf --target qnn:SM8650 -o model-sm8650\n  \
        anynpu compile model-q4_0.gguf --target qnn:SM8750 --ctx 2048 --qnn-weights blocks -o model-sm8750\n  \
        anynpu compile model-q4_0.gguf --target coreml:iOS18 --units ane -o model.mlpackage"
    )]
    Compile(CompileArgs),
    /// Find out the ranges of a model's activations, for devices that compute in fixed point
    #[command(
        after_help = "Examples:\n  anynpu calibrate model.gguf -f text.txt -o ranges.json\n  \
        anynpu run model.gguf --device cpu,qnn --place 'layers.*=qnn' --qnn-ranges ranges.json\n  \
        anynpu calibrate model.gguf -f text.txt --activations u8 -o ranges-u8.json\n  \
        anynpu calibrate model.gguf -f text.txt --for nnapi -o ranges.json"
    )]
    Calibrate(CalibrateArgs),
    /// Try what a vendor's library computes right on a chip, operation by operation
    #[command(
        after_help = "Examples:\n  anynpu operations\n  anynpu operations --qnn-soc SM8750 --json\n\n\
        Each is tried in a process that may crash. The table is kept in the folder for caches: what did not come\n\
        out right is kept from that chip from then on, as long as the library is the same."
    )]
    Operations(OperationsArgs),
    /// Measure how well a model predicts a text
    #[command(
        after_help = "Examples:\n  anynpu perplexity model.gguf -f text.txt\n  \
        anynpu perplexity model-q4.gguf -f text.txt --kl model-f32.gguf --json"
    )]
    Perplexity(PerplexityArgs),
    /// Check each backend: what was looked for, what was found, what to do
    #[command(
        after_help = "Examples:\n  anynpu doctor --json\n  anynpu doctor --record doctor.json"
    )]
    Doctor(DoctorArgs),
    /// Serve a driver to the program that started this one, on standard input and output
    #[command(hide = true)]
    ServeDriver(ServeDriverArgs),
    /// Try operations for the program that started this one, on standard output
    #[command(hide = true)]
    ServeOperations(ServeOperationsArgs),
    /// List every environment variable that anynpu reads
    #[command(after_help = "Example:\n  anynpu knobs")]
    Knobs(JsonArgs),
}

/// The model of a command.
#[derive(Debug, Args)]
pub struct ModelArg {
    /// A .gguf file; the built-in story model if left out
    #[arg(value_name = "MODEL")]
    pub model: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct JsonArgs {
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Backends that were built apart.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Plugins")]
pub struct PluginArgs {
    /// Load this backend that was built apart: a library, or a manifest that names one; repeatable. Until its devices are
    /// measured they are given all that they can run. ANYNPU_DRIVER_FILES names such, too
    #[arg(long, value_name = "FILE")]
    pub driver: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub plugins: PluginArgs,
    #[command(flatten)]
    pub vendors: VendorArgs,
    #[command(flatten)]
    pub json: JsonArgs,
}

/// Where vendors' libraries are.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Vendors' libraries")]
pub struct VendorArgs {
    /// Qualcomm's libQnnHtp.so, for the device qnn; ANYNPU_QNN_LIBRARY if left out
    #[arg(long, value_name = "PATH")]
    pub qnn_library: Option<PathBuf>,
    /// The Qualcomm chip, e.g. SM8650; ANYNPU_QNN_SOC if left out
    #[arg(long, value_name = "NAME")]
    pub qnn_soc: Option<String>,
    /// The form of weights there: f16, int8, int4, blocks or lpbq; ANYNPU_QNN_WEIGHTS if left out
    #[arg(long, value_name = "FORM")]
    pub qnn_weights: Option<anynpu_backends::WeightForm>,
    /// Ranges that `anynpu calibrate` made: activations there are in fixed point; ANYNPU_QNN_RANGES, or floating
    /// point, if left out
    #[arg(long, value_name = "FILE")]
    pub qnn_ranges: Option<PathBuf>,
    /// How fast the chip is asked to run while it does: burst, sustained or saver; ANYNPU_QNN_POWER, or as it does by
    /// itself, if left out
    #[arg(long, value_name = "MODE")]
    pub qnn_power: Option<anynpu_backends::PowerMode>,
    /// Most MiB of weights in one context there, of which larger models have several; ANYNPU_QNN_CONTEXT_MIB, or 2048,
    /// if left out
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub qnn_context_mib: Option<u32>,
    /// The library of memory that processor and HTP have in common; ANYNPU_QNN_RPCMEM, or on a chip the system's
    /// libcdsprpc.so, if left out
    #[arg(long, value_name = "PATH")]
    pub qnn_rpcmem: Option<PathBuf>,
    /// Folder of what `anynpu operations` found out; one in the folder for caches if left out
    #[arg(long, value_name = "DIR", hide = true)]
    pub qnn_tables: Option<PathBuf>,
    /// Android's libneuralnetworks.so, for the device nnapi; ANYNPU_NNAPI_LIBRARY, or on Android the system's, if left
    /// out
    #[arg(long, value_name = "PATH")]
    pub nnapi_library: Option<PathBuf>,
    /// How numbers are held there: f32, relaxed (f32, computed in f16 if the device likes) or f16;
    /// ANYNPU_NNAPI_NUMBERS, or f32, if left out
    #[arg(long, value_name = "FORM")]
    pub nnapi_numbers: Option<anynpu_backends::NnapiNumbers>,
    /// How matrices are held there: numbers, int8 with a scale a row, or int8-tensor with one scale;
    /// ANYNPU_NNAPI_WEIGHTS, or numbers, if left out
    #[arg(long, value_name = "FORM")]
    pub nnapi_weights: Option<anynpu_backends::NnapiWeightForm>,
    /// Ranges that `anynpu calibrate --for nnapi` made: products with matrices in int8 are of integers there;
    /// ANYNPU_NNAPI_RANGES, or products of numbers, if left out
    #[arg(long, value_name = "FILE")]
    pub nnapi_ranges: Option<PathBuf>,
    /// Whose memory the KV cache is in there: host, which runs read in place, or device, where no other device shares
    /// it; ANYNPU_NNAPI_STATES, or host, if left out
    #[arg(long, value_name = "WHOSE")]
    pub nnapi_states: Option<anynpu_backends::NnapiStateForm>,
    /// What the device is to be good at: low-power, fast or sustained; ANYNPU_NNAPI_PREFERENCE, or as it does by itself,
    /// if left out
    #[arg(long, value_name = "MODE")]
    pub nnapi_preference: Option<anynpu_backends::NnapiPreference>,
    /// How urgent runs there are beside those of others: low, medium or high; ANYNPU_NNAPI_PRIORITY if left out
    #[arg(long, value_name = "MODE")]
    pub nnapi_priority: Option<anynpu_backends::NnapiPriority>,
    /// Most milliseconds that the device may compile, and that a run of it may take; ANYNPU_NNAPI_TIMEOUT_MS, or
    /// without an end, if left out
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(1..))]
    pub nnapi_timeout_ms: Option<u32>,
    /// Folder in which vendors' drivers keep what they compiled; one in the folder for caches if left out
    #[arg(long, value_name = "DIR", hide = true)]
    pub nnapi_cache: Option<PathBuf>,
    /// Folder in which what Core ML compiled is kept; one in the folder for caches if left out
    #[arg(long, value_name = "DIR", hide = true)]
    pub coreml_cache: Option<PathBuf>,
}

/// Options on where and how a model runs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Devices")]
pub struct PlacementArgs {
    /// Consider only these devices, preferred first (artificial ones only if named here); sim:FILE.toml or
    /// sim:NAME is a simulated one
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub device: Vec<String>,
    /// Fail unless every layer runs on this device
    #[arg(long, value_name = "NAME")]
    pub require: Option<String>,
    /// Never use this device
    #[arg(long, value_name = "NAME")]
    pub forbid: Vec<String>,
    /// Pin nodes to a device, e.g. 'layers.0-3=cpu' or 'layers.*.ffn*=cpu'
    #[arg(long, value_name = "PATTERN=NAME")]
    pub place: Vec<String>,
    /// Start on the CPU at once and move to the other devices when they have compiled
    #[arg(long)]
    pub background: bool,
    /// Try one node of each kind on every other device beside the CPU, and keep what goes wrong away from it; with
    /// --isolate even a crash is only a verdict
    #[arg(long)]
    pub self_check: bool,
    /// Run every driver but the CPU's in a process of its own, so that one that crashes ends only that
    #[arg(long)]
    pub isolate: bool,
    /// Threads of the CPU; if left out, one for each core at least half as fast as the fastest
    #[arg(long, short = 't', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: Option<u32>,
    /// Use only these CPU kernels, e.g. 'generic' or 'avx2'
    #[arg(long, value_name = "LIST")]
    pub cpu_features: Option<String>,
    /// Price plans by what `anynpu probe --save` measured; repeatable, of a device in several files the last
    /// counts. ANYNPU_PROFILE if left out
    #[arg(long, value_name = "FILE")]
    pub profile: Vec<PathBuf>,
    /// Folder in which what devices compile is kept for the next start; ANYNPU_CACHE_DIR, or the user's
    /// folder for caches, if left out
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    pub cache_dir: Option<PathBuf>,
    /// Keep nothing that devices compile
    #[arg(long)]
    pub no_cache: bool,
    /// Folder that `anynpu compile` made, to load compiled forms from; repeatable
    #[arg(long, value_name = "DIR")]
    pub compiled: Vec<PathBuf>,
    /// Type of the KV cache; auto is f32 for F32 models and caches up to 16 MiB, else f16. q8_0 takes
    /// half of f16, for models whose heads are a multiple of 32 wide
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    pub kv_type: KvType,
    /// What devices may compute in, f32 apart: the type of the model's numbers, or bf16 or f16 as well. Nodes pinned
    /// to a device run there whatever it computes in, with a warning. With bf16 the CPU rounds float matrices and
    /// what they are multiplied by where it has instructions for that type, as it does for models in bf16; with f16 it rounds
    /// what matrices in f16 are multiplied by, where it has such (aarch64 with FHM). With f32 nothing is computed in a
    /// narrower type
    #[arg(long, value_name = "TYPE", default_value = "model")]
    pub precision: Precision,
    #[command(flatten)]
    pub vendors: VendorArgs,
    #[command(flatten)]
    pub plugins: PluginArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    Model,
    F32,
    Bf16,
    F16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KvType {
    Auto,
    F32,
    F16,
    #[value(name = "q8_0")]
    Q8_0,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnFull {
    /// Stop with an error
    Error,
    /// Forget the oldest half and go on
    Slide,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub model: ModelArg,
    /// Text to continue
    #[arg(short, long, conflicts_with = "file")]
    pub prompt: Option<String>,
    /// File with the text to continue
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Most tokens to generate; until the model ends or the context is full if left out
    #[arg(short = 'n', long = "tokens", value_name = "N")]
    pub tokens: Option<u32>,
    /// Temperature; 0 always takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    pub temp: f32,
    /// Keep the K likeliest tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: u32,
    /// Keep the likeliest tokens that make up this probability
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub top_p: f32,
    /// Drop tokens less likely than this share of the likeliest
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    pub min_p: f32,
    /// Divide the logits of recent tokens by this; 1 changes nothing
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    pub repeat_penalty: f32,
    /// Seed of the random choice; from the clock if left out
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Stop before this text; repeatable
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Context size in tokens; the model's own, at most 4096, if left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx: Option<u32>,
    /// What to do when the context is full
    #[arg(long, value_name = "WHAT", default_value = "error")]
    pub on_full: OnFull,
    /// Hold a conversation: each line of standard input is a message, after the prompt if one is
    /// given; /clear begins anew, /exit ends, Ctrl-C stops an answer
    #[arg(long)]
    pub chat: bool,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub system: Option<String>,
    /// Write a timeline of what ran where, for ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "FILE.json", conflicts_with = "chat")]
    pub trace: Option<PathBuf>,
    /// The date that the model may be told, YYYY-MM-DD; today (UTC) if left out
    #[arg(long, value_name = "DATE", requires = "chat")]
    pub date: Option<String>,
    #[command(flatten)]
    pub placement: PlacementArgs,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub model: ModelArg,
    /// Prompt length to plan for
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub prompt: u32,
    /// Tokens to generate that the objective counts
    #[arg(short = 'n', long = "tokens", value_name = "N", default_value_t = 128)]
    pub tokens: u32,
    /// What the plan is to be the best in
    #[arg(long, value_enum, default_value_t = Objective::Latency)]
    pub objective: Objective,
    /// Most bytes of weights and KV cache that a device may hold; repeatable. K, M and G stand for 2^10,
    /// 2^20 and 2^30
    #[arg(long, value_name = "DEV=BYTES", value_parser = budget)]
    pub memory: Vec<(String, u64)>,
    /// Run the plan: the prompt (token ids of a fixed sequence) and as many steps as tokens are generated,
    /// and show what was predicted beside what was measured; without a profile, what the model needs of the
    /// devices is measured first
    #[arg(long)]
    pub check: bool,
    /// Keep in the profile how far off the check found it: later predictions are corrected
    #[arg(long, requires = "check", requires = "profile")]
    pub learn: bool,
    /// Price other ways beside it: every node on the first device that runs it, and each device alone
    #[arg(long)]
    pub compare: bool,
    /// Write a page that shows the plan: layers by devices, and when each segment runs
    #[arg(long, value_name = "FILE.html")]
    pub html: Option<PathBuf>,
    #[command(flatten)]
    pub placement: PlacementArgs,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct ServeDriverArgs {
    #[command(flatten)]
    pub vendors: VendorArgs,
    /// The devices that the program was given
    #[arg(long)]
    pub device: Vec<String>,
    /// Which of the drivers for these devices to serve
    #[arg(long, required_unless_present = "driver")]
    pub index: Option<usize>,
    /// The plugin to serve instead
    #[arg(long)]
    pub driver: Option<PathBuf>,
}

/// What a plan is to be the best in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Objective {
    /// The least time for the prompt and all tokens
    Latency,
    /// The least time to the first token
    Ttft,
    /// The least time a token
    Throughput,
    /// The least energy, by what drivers state of their devices' power
    Energy,
    /// The fewest bytes of weights and KV cache over all devices
    Memory,
}

/// Reads `DEV=BYTES`.
fn budget(text: &str) -> Result<(String, u64), String> {
    let expected = || "expected DEV=BYTES, e.g. cpu=2G".to_owned();
    // names of simulated devices may hold the sign
    let (device, size) = text.rsplit_once('=').ok_or_else(expected)?;
    let size = size.trim();
    let (digits, unit) = match size.char_indices().last() {
        Some((at, 'k' | 'K')) => (&size[..at], 1u64 << 10),
        Some((at, 'm' | 'M')) => (&size[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&size[..at], 1 << 30),
        _ => (size, 1),
    };
    let count: u64 = digits.parse().map_err(|_| expected())?;
    let bytes = count.checked_mul(unit);
    let bytes = bytes.ok_or_else(|| format!("{size} is more than 2^64 bytes"))?;
    match device.is_empty() {
        true => Err(expected()),
        false => Ok((device.to_owned(), bytes)),
    }
}

#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// Only the most important figures, in less than 3 seconds a device
    #[arg(long)]
    pub quick: bool,
    /// Save the profile to this file
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    #[command(flatten)]
    pub placement: PlacementArgs,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    pub model: ModelArg,
    #[command(flatten)]
    pub placement: PlacementArgs,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct LogitsArgs {
    #[command(flatten)]
    pub model: ModelArg,
    /// Token ids, separated by commas; nothing is added
    #[arg(long, value_name = "ID,…", value_delimiter = ',', required = true)]
    pub tokens: Vec<u32>,
    /// Write f32 little endian, row-major [positions, vocabulary], to this file
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub placement: PlacementArgs,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct TokenizeArgs {
    #[command(flatten)]
    pub model: ModelArg,
    /// The text
    #[arg(short, long)]
    pub prompt: String,
    /// Recognise special tokens and add the begin token
    #[arg(long)]
    pub special: bool,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pooling {
    Mean,
    Cls,
}

#[derive(Debug, Args)]
pub struct EmbedArgs {
    #[command(flatten)]
    pub model: ModelArg,
    /// The text
    #[arg(short = 'p', long, value_name = "TEXT")]
    pub prompt: String,
    /// How the tokens' vectors become one; mean if neither this nor the model says
    #[arg(long, value_name = "HOW")]
    pub pooling: Option<Pooling>,
    /// The second text of a pair, for classifiers
    #[arg(long, value_name = "TEXT", conflicts_with = "pooling")]
    pub pair: Option<String>,
    #[command(flatten)]
    pub placement: PlacementArgs,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct DetokenizeArgs {
    #[command(flatten)]
    pub model: ModelArg,
    /// Token ids, separated by commas
    #[arg(long, value_name = "ID,…", value_delimiter = ',', required = true)]
    pub tokens: Vec<u32>,
    /// Render special tokens too
    #[arg(long)]
    pub special: bool,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    pub model: ModelArg,
    /// Tell the memory of this context only
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub ctx: Option<u32>,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct QuantizeArgs {
    /// The .gguf file or Hugging Face folder to read
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// The .gguf file to write
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
    /// Type of the result, e.g. Q4_K_M
    #[arg(long = "type", value_name = "TYPE")]
    pub mixture: Mixture,
    /// Importance matrix (GGUF or .dat) that says how much each column matters
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<PathBuf>,
    /// Run both models over this text and report perplexity and divergence
    #[arg(long, value_name = "FILE")]
    pub quality: Option<PathBuf>,
    /// Context size in tokens for --quality; the model's own, at most 512, if left out
    #[arg(long, value_name = "N", requires = "quality", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx: Option<u32>,
    #[command(flatten)]
    pub placement: PlacementArgs,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Keep what was found in this file, and what Core ML would run where of the built-in model: for a bug report
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    #[command(flatten)]
    pub list: ListArgs,
}

#[derive(Debug, Args)]
pub struct CompileArgs {
    #[command(flatten)]
    pub model: ModelArg,
    #[arg(long, value_name = "TARGET", help = Target::help())]
    pub target: Target,
    /// The folder to make; it must not be there yet
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Context size in tokens, fixed from now on; the model's own, at most 4096, if left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx: Option<u32>,
    /// Type of the KV cache; auto is f32 for F32 models and caches up to 16 MiB, else f16
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    pub kv_type: KvType,
    /// Hold weights once for each size of step, so that the emulator of this machine loads it too
    #[arg(long)]
    pub for_emulator: bool,
    /// Qualcomm's libQnnHtp.so, which compiles; ANYNPU_QNN_LIBRARY if left out
    #[arg(long, value_name = "PATH")]
    pub qnn_library: Option<PathBuf>,
    /// The form of weights: f16, int8, int4, blocks or lpbq; ANYNPU_QNN_WEIGHTS if left out
    #[arg(long, value_name = "FORM")]
    pub qnn_weights: Option<anynpu_backends::WeightForm>,
    /// Ranges that `anynpu calibrate` made: activations are in fixed point; ANYNPU_QNN_RANGES if left out
    #[arg(long, value_name = "FILE")]
    pub qnn_ranges: Option<PathBuf>,
    /// Most MiB of weights in one context, of which larger models have several; ANYNPU_QNN_CONTEXT_MIB, or 2048, if
    /// left out
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    pub qnn_context_mib: Option<u32>,
    #[command(flatten)]
    pub coreml: CoreMlArgs,
    #[command(flatten)]
    pub json: JsonArgs,
}

/// How packages for Apple's systems are written.
#[derive(Debug, Args)]
#[command(next_help_heading = "Targets coreml:SYSTEM")]
pub struct CoreMlArgs {
    /// The processors that the package is written for: all, ane, gpu or cpu; all if left out
    #[arg(long, value_name = "UNITS")]
    pub units: Option<coreml::ComputeUnits>,
    /// The form of weights: model, float, int8, int4, lut4, lut6 or lut8; model, as near to the file's as can be, if left
    /// out
    #[arg(long, value_name = "FORM")]
    pub coreml_weights: Option<coreml::weights::WeightForm>,
    /// What the program computes in: f16 or f32; f16 if left out
    #[arg(long, value_name = "TYPE")]
    pub coreml_precision: Option<coreml::Precision>,
    /// Where keys and values are: native, in states, or caller, who gives and takes them; states where there are any if
    /// left out
    #[arg(long, value_name = "PLACE")]
    pub coreml_states: Option<coreml::lower::States>,
    /// Tokens of the functions that prompts are read by, of an encoder those for shorter texts; 64 for models that
    /// generate, from iOS18 and macOS15 on, if left out
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(2..))]
    pub coreml_steps: Option<Vec<u32>>,
}

impl CoreMlArgs {
    /// The first of these options that is there.
    pub fn first(&self) -> Option<&'static str> {
        let there = [
            (self.units.is_some(), "--units"),
            (self.coreml_weights.is_some(), "--coreml-weights"),
            (self.coreml_precision.is_some(), "--coreml-precision"),
            (self.coreml_states.is_some(), "--coreml-states"),
            (self.coreml_steps.is_some(), "--coreml-steps"),
        ];
        there
            .iter()
            .find(|(there, _)| *there)
            .map(|(_, name)| *name)
    }
}

/// What ranges of activations are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CalibratedFor {
    /// Qualcomm's HTP: ranges of every tensor of its graphs.
    Qnn,
    /// Android's Neural Networks API: ranges of the values of the model.
    Nnapi,
}

#[derive(Debug, Args)]
pub struct CalibrateArgs {
    #[command(flatten)]
    pub model: ModelArg,
    /// File with a text like those that the model is for
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// The file to make
    #[arg(short, long, value_name = "RANGES")]
    pub output: PathBuf,
    /// The device that ranges are for: qnn, which needs Qualcomm's library, or nnapi, which needs nobody's. If left out,
    /// qnn where its library loads, and otherwise nnapi
    #[arg(long = "for", value_name = "DEVICE")]
    pub device: Option<CalibratedFor>,
    /// How activations are to be held: u16, or u8, the only form of nnapi; u16 for qnn, u8 for nnapi, if left out
    #[arg(long, value_name = "FORM")]
    pub activations: Option<anynpu_backends::FixedForm>,
    /// Tokens of a window; the model's own context, at most 128, if left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub ctx: Option<u32>,
    /// Qualcomm's libQnnHtp.so, for qnn; ANYNPU_QNN_LIBRARY if left out
    #[arg(long, value_name = "PATH")]
    pub qnn_library: Option<PathBuf>,
    /// The form of weights there: f16, int8, int4 or lpbq; ANYNPU_QNN_WEIGHTS if left out
    #[arg(long, value_name = "FORM")]
    pub qnn_weights: Option<anynpu_backends::WeightForm>,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct OperationsArgs {
    #[command(flatten)]
    pub vendors: VendorArgs,
    /// Folder in which the table is kept; ANYNPU_CACHE_DIR, or the user's folder for caches, if left out
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    pub cache_dir: Option<PathBuf>,
    /// Keep no table
    #[arg(long)]
    pub no_cache: bool,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct ServeOperationsArgs {
    #[command(flatten)]
    pub vendors: VendorArgs,
    /// The number of the first form to try
    #[arg(long)]
    pub first: usize,
}

#[derive(Debug, Args)]
pub struct PerplexityArgs {
    #[command(flatten)]
    pub model: ModelArg,
    /// File with the text
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// The file holds several texts with empty lines between, each to be predicted by itself
    #[arg(long)]
    pub texts: bool,
    /// Tokens of a window; the model's own context, at most 512, if left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx: Option<u32>,
    /// Compare with this model's predictions, e.g. those of the file before quantising
    #[arg(long, value_name = "BASE")]
    pub kl: Option<PathBuf>,
    #[command(flatten)]
    pub placement: PlacementArgs,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchFormat {
    Md,
    Json,
    Jsonl,
    Csv,
    Sql,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    pub model: ModelArg,
    /// Prompt lengths to measure
    #[arg(
        short = 'p',
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "512"
    )]
    pub prompt: Vec<u32>,
    /// Numbers of generated tokens to measure
    #[arg(
        short = 'n',
        long = "tokens",
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "128"
    )]
    pub tokens: Vec<u32>,
    /// Tokens already in the context
    #[arg(short = 'd', long, value_name = "N", default_value_t = 0)]
    pub depth: u32,
    /// Numbers of texts to generate at once; tokens a second are those of all
    #[arg(
        long,
        value_name = "N,…",
        value_delimiter = ',',
        default_value = "1",
        value_parser = clap::value_parser!(u32).range(1..=1024)
    )]
    pub sequences: Vec<u32>,
    /// Runs of each test
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repetitions: u32,
    /// Form of the result
    #[arg(short = 'o', long, value_name = "FORM", default_value = "md")]
    pub output: BenchFormat,
    #[command(flatten)]
    pub placement: PlacementArgs,
}
