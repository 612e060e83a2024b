//! `anynpu detokenize`: the text of token ids.

use anynpu::tokenize::DetokenizeOptions;
use serde::Serialize;

use crate::args::DetokenizeArgs;
use crate::output;

#[derive(Serialize)]
struct Document {
    text: String,
}

/// Renders the tokens.
pub fn execute(args: &DetokenizeArgs) -> anyhow::Result<()> {
    let open = args.model.open()?;
    let options = DetokenizeOptions {
        special: args.special,
        at_start: true,
    };
    let text = open.tokenizer()?.decode(&args.tokens, options)?;
    if args.json.json {
        return output::print_json(&Document { text });
    }
    Ok(output::print_line(&text)?)
}
