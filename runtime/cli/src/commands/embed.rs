//! `anynpu embed`: a text's vector, or a classifier's scores.

use anynpu::{Executed, Kind, Pooling};
use serde::Serialize;

use crate::args::{self, EmbedArgs};
use crate::output;

#[derive(Serialize)]
struct Document {
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding: Option<Vec<f32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scores: Option<Vec<f32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pooling: Option<&'static str>,
    executed: Executed,
}

/// Embeds or classifies the text.
pub fn execute(args: &EmbedArgs) -> anyhow::Result<()> {
    let model = args.placement.load(&args.model, None)?;
    let mut embedder = model.embedder()?;
    let mut document = Document {
        embedding: None,
        scores: None,
        pooling: None,
        executed: Executed::default(),
    };
    let numbers = if model.info().kind == Kind::Classifier {
        let scores = embedder.classify(&args.prompt, args.pair.as_deref())?;
        document.scores = Some(scores.clone());
        scores
    } else {
        if args.pair.is_some() {
            anyhow::bail!("--pair needs a classifier; embed the two texts one by one");
        }
        let pooling = match args.pooling {
            Some(args::Pooling::Mean) => Pooling::Mean,
            Some(args::Pooling::Cls) => Pooling::Cls,
            None => model.pooling().unwrap_or_default(),
        };
        document.pooling = Some(match pooling {
            Pooling::Mean => "mean",
            Pooling::Cls => "cls",
        });
        let embedding = embedder.embed(&args.prompt, pooling)?;
        document.embedding = Some(embedding.clone());
        embedding
    };
    document.executed = embedder.executed();
    if args.json.json {
        return output::print_json(&document);
    }
    let words: Vec<String> = numbers.iter().map(|x| x.to_string()).collect();
    Ok(output::print_line(&words.join(" "))?)
}
