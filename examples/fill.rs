//! Answers blanks: `cargo run --release --example fill -- models/retto-tiny "lipstick stains on the [MASK]"`

use retto::{Gpu, Model};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or("models/retto-tiny".into());
    let mut texts: Vec<String> = arguments.collect();
    if texts.is_empty() {
        texts.push("lipstick stains on the [MASK]".into());
    }

    let gpu = Gpu::open_default()?;
    let model = Model::open(&gpu, folder)?;
    for (text, masks) in texts.iter().zip(model.fill_mask_batch(&texts, 5)?) {
        println!("{text}");
        for fill in masks.iter().flatten() {
            println!("  {:.4}  {:<12} {}", fill.score, fill.token_str, fill.sequence);
        }
    }
    Ok(())
}
