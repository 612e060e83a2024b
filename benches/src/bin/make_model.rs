//! Writes a model of a real shape with random weights.

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

use anynpu_bench::synthetic::Shape;
use anynpu_ir::DType;
use clap::{Parser, ValueEnum};

/// Write a decoder as GGUF with random weights, for measuring speed.
#[derive(Parser)]
#[command(after_help = "Example:\n  make_model billion target/billion-Q4_0.gguf --type q4_0")]
struct Arguments {
    /// Which shape
    shape: ShapeName,
    /// File to write
    out: PathBuf,
    /// Element type of the matrices, e.g. f16, q8_0, q4_0, q4_k
    #[arg(long = "type", default_value = "q4_0", value_parser = dtype)]
    dtype: DType,
}

#[derive(Clone, Copy, ValueEnum)]
enum ShapeName {
    /// 1.04 billion parameters
    Billion,
    /// 0.37 billion parameters, rows that are no whole blocks of 256
    HalfBillion,
    /// 15 million parameters
    Small,
}

fn dtype(name: &str) -> Result<DType, String> {
    name.parse().map_err(|()| {
        let known: Vec<&str> = DType::ALL.iter().map(|d| d.name()).collect();
        format!("no such type; known: {}", known.join(", "))
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let shape = match arguments.shape {
        ShapeName::Billion => Shape::BILLION,
        ShapeName::HalfBillion => Shape::HALF_BILLION,
        ShapeName::Small => Shape::SMALL,
    };
    let out = BufWriter::new(File::create(&arguments.out)?);
    shape.write(arguments.dtype, out)?;
    Ok(())
}
