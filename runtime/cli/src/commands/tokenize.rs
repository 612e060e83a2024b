//! `anynpu tokenize`: a text's token ids and pieces.

use anynpu::tokenize::EncodeOptions;
use serde::Serialize;

use crate::args::TokenizeArgs;
use crate::output;

#[derive(Serialize)]
struct Document {
    tokens: Vec<u32>,
    pieces: Vec<String>,
}

/// Tokenises the text.
pub fn execute(args: &TokenizeArgs) -> anyhow::Result<()> {
    let open = args.model.open()?;
    let tokenizer = open.tokenizer()?;
    let options = EncodeOptions {
        add_special: args.special,
        parse_special: args.special,
    };
    let tokens = tokenizer.encode(&args.prompt, options)?;
    let pieces = tokenizer.pieces(&tokens)?;
    if args.json.json {
        return output::print_json(&Document { tokens, pieces });
    }
    for (id, piece) in tokens.iter().zip(&pieces) {
        output::print_line(&format!("{id:>7}  {piece:?}"))?;
    }
    Ok(())
}
