//! Fill-mask queries.

use crate::error::{Error, Result};
use crate::gpu::Pass;
use crate::model::{Bert, Model};
use crate::ops::tilings::LENGTHS;
use crate::ops::top_k::{self, Found};
use crate::ops::tuning::tune;
use crate::text::PackedBatch;

/// One answer for one mask, as transformers' fill-mask pipeline gives it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Fill {
    /// Probability of this token among the whole vocabulary.
    pub score: f32,
    /// Its id.
    pub token: u32,
    /// Its text.
    pub token_str: String,
    /// The text with this token in the mask's place.
    pub sequence: String,
}

/// Where one particular word stands among a model's answers.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct GoldRank {
    /// Probability of the word's token among the whole vocabulary.
    pub score: f32,
    /// Its id.
    pub token: u32,
    /// 1 for the likeliest token of the vocabulary, 2 for the next; of equals, the smaller id first.
    pub rank: usize,
}

impl Model {
    /// The `top_k` likeliest tokens for each mask of a text, best first. Masks are answered independently, each with the
    /// others still masked, as transformers does. A line break in the text is a space.
    ///
    /// # Errors
    /// [`Error::NoMask`], [`Error::TooLong`], [`Error::NoMlmHead`]; [`Error::InvalidArgument`] for a `top_k` of 0; [`Error::NotFinite`] for
    /// a score; GPU errors.
    pub fn fill_mask(&self, text: &str, top_k: usize) -> Result<Vec<Vec<Fill>>> {
        Ok(self.fill_mask_batch(&[text], top_k)?.remove(0))
    }

    /// [`Model::fill_mask`] for several texts at once: answers by text, mask and rank.
    ///
    /// # Errors
    /// As [`Model::fill_mask`]; if one text is at fault, none is answered.
    pub fn fill_mask_batch<S: AsRef<str>>(&self, texts: &[S], top_k: usize) -> Result<Vec<Vec<Vec<Fill>>>> {
        self.require_mlm_head()?;
        if top_k == 0 {
            return Err(Error::InvalidArgument("top_k is 0; ask for at least one answer".into()));
        }
        let encoded: Vec<Vec<u32>> =
            texts.iter().map(|text| self.encode_query(text.as_ref())).collect::<Result<_>>()?;
        let mut answers = Vec::with_capacity(texts.len());
        let mut rest = encoded.as_slice();
        while !rest.is_empty() {
            let count = self.fits_one_pass(rest.iter().map(Vec::len));
            self.fill_encoded(&rest[..count], top_k, true, &mut answers)?;
            rest = &rest[count..];
        }
        Ok(answers)
    }

    /// Where `gold` stands among the answers for the one mask of a text.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the text has several masks, or `gold` is not one token of this model's vocabulary;
    /// otherwise as [`Model::fill_mask`].
    pub fn rank_gold(&self, text: &str, gold: &str) -> Result<GoldRank> {
        self.require_mlm_head()?;
        let token = self.only_token(gold)?;
        let ids = self.encode_query(text)?;
        let mask = self.tokenizer.require_mask_token()?;
        let masks: Vec<usize> = (0..ids.len()).filter(|&i| ids[i] == mask).collect();
        let [at] = masks[..] else {
            let reason = format!("a gold word needs a text with one blank; '{text}' has {}", masks.len());
            return Err(Error::InvalidArgument(reason));
        };
        let mut batch = PackedBatch::default();
        batch.push(&ids);
        batch.masked_rows.push(at as u32);
        let (found, logits) = self.search(&batch, 1, true, true)?;
        Ok(rank(&logits, token, &found[0]))
    }

    /// The id of a word that the vocabulary holds whole.
    fn only_token(&self, word: &str) -> Result<u32> {
        let pieces = self.tokenizer.encode_body(word)?;
        // Among them the one for what is unknown.
        let special = pieces.iter().any(|&id| self.tokenizer.is_special(id));
        match pieces[..] {
            [token] if !special => Ok(token),
            _ => {
                let pieces = pieces.iter().filter_map(|&id| self.tokenizer.id_to_token(id)).collect::<Vec<_>>();
                let reason = match pieces.len() < 2 {
                    true => format!("'{word}' is not in this model's vocabulary"),
                    false => format!("'{word}' is not one token of this model's vocabulary but {}", pieces.join(" ")),
                };
                Err(Error::InvalidArgument(reason))
            }
        }
    }

    /// Compiles what queries need, of up to 255 tokens on GPUs, so that the first one takes no longer than those after it. Where
    /// the `Gpu` was given a folder, also measures once which kernels are the fastest on this adapter, a matter of seconds, and keeps
    /// both.
    ///
    /// # Errors
    /// GPU errors.
    pub fn warm_up(&self) -> Result<()> {
        tune(&self.gpu, false)?;
        Bert::compile_ahead(&self.gpu, self.config(), self.packing(), &LENGTHS, Bert::sums_of(self.has_mlm_head), true);
        let mut batch = PackedBatch::default();
        // Any token will do; two, where there may be as many, so that what is asked for is a part of them.
        batch.push(&[0, 0][..2.min(self.config().max_position_embeddings)]);
        batch.masked_rows.push(0);
        if self.has_mlm_head {
            self.best(&batch, 1, true)?;
        } else {
            self.rows(&batch, Some(&[0]))?;
        }
        self.gpu.save_cache();
        Ok(())
    }

    fn encode_query(&self, text: &str) -> Result<Vec<u32>> {
        let mask = self.tokenizer.require_mask_token()?;
        let ids = self.tokenizer.encode(text)?;
        if !ids.contains(&mask) {
            let mask_token = self.tokenizer.mask_token().to_owned();
            return Err(Error::NoMask { mask_token, text: text.to_owned() });
        }
        let max = self.config().max_position_embeddings;
        if ids.len() > max {
            return Err(Error::TooLong { tokens: ids.len(), max });
        }
        Ok(ids)
    }

    /// `split_sums`: see [`Pass::split_sums`].
    pub(crate) fn fill_encoded(
        &self,
        texts: &[Vec<u32>],
        top_k: usize,
        split_sums: bool,
        answers: &mut Vec<Vec<Vec<Fill>>>,
    ) -> Result<()> {
        let mask = self.tokenizer.require_mask_token()?;
        let mut batch = PackedBatch::default();
        for ids in texts {
            let first = batch.tokens() as u32;
            batch.push(ids);
            batch.masked_rows.extend((0..ids.len() as u32).filter(|&i| ids[i as usize] == mask).map(|i| first + i));
        }
        let mut best = self.best(&batch, top_k, split_sums)?.into_iter();
        for ids in texts {
            let masks: Vec<usize> = (0..ids.len()).filter(|&i| ids[i] == mask).collect();
            let mut of_text = Vec::with_capacity(masks.len());
            for (&at, best) in masks.iter().zip(&mut best) {
                let fill = |(token, score)| self.fill(ids, at, masks.len() == 1, token, score);
                of_text.push(best.into_iter().map(fill).collect::<Result<Vec<_>>>()?);
            }
            answers.push(of_text);
        }
        Ok(())
    }

    /// Of each masked row the `top_k` likeliest tokens with their probabilities, best first: found on the device, so that few numbers
    /// come back, unless more are asked for than it finds, or too many are equal.
    fn best(&self, batch: &PackedBatch, top_k: usize, split_sums: bool) -> Result<Vec<Vec<(u32, f32)>>> {
        if top_k <= top_k::MOST {
            let (found, _) = self.search(batch, top_k, false, split_sums)?;
            let scored = |found: &Found| {
                let largest = found.largest.as_ref()?;
                Some(largest.iter().map(|&(id, logit)| (id, found.probability(logit))).collect())
            };
            if let Some(answers) = found.iter().map(scored).collect() {
                return Ok(answers);
            }
        }
        let (found, logits) = self.search(batch, 1, true, split_sums)?;
        let rows = logits.chunks_exact(self.config().vocab_size).zip(&found);
        Ok(rows.map(|(logits, found)| top(logits, top_k, found)).collect())
    }

    /// What [`top_k::top_k`] finds of each masked row, and all logits where they are wanted. All probabilities come of it, so that a token
    /// has the same one whatever was asked for.
    fn search(
        &self,
        batch: &PackedBatch,
        top_k: usize,
        with_logits: bool,
        split_sums: bool,
    ) -> Result<(Vec<Found>, Vec<f32>)> {
        let mut pass = Pass::new(&self.gpu);
        pass.split_sums = split_sums;
        let mut downloads = Vec::new();
        self.bert.logits(&mut pass, batch, |pass, _, logits| {
            let found = top_k::top_k(pass, logits, top_k)?;
            let logits = with_logits.then(|| pass.download(logits)).transpose()?;
            downloads.push((pass.download(&found)?, logits));
            Ok(())
        })?;
        pass.submit()?;
        let (mut words, mut all) = (Vec::new(), Vec::new());
        for (found, logits) in downloads {
            words.extend(found.wait::<u32>(&self.gpu)?);
            if let Some(logits) = logits {
                all.extend(logits.wait::<f32>(&self.gpu)?);
            }
        }
        let found = Found::of(&words, self.config().vocab_size, top_k);
        match found.iter().all(Found::is_finite) {
            true => Ok((found, all)),
            false => Err(Error::not_finite("the score of an answer")),
        }
    }

    fn fill(&self, ids: &[u32], at: usize, only_mask: bool, token: u32, score: f32) -> Result<Fill> {
        let mut ids = ids.to_vec();
        ids[at] = token;
        // The pipeline's own habits: padding is dropped, and special tokens are shown only beside other masks.
        ids.retain(|&id| Some(id) != self.tokenizer.pad_token_id());
        Ok(Fill {
            score,
            token,
            token_str: self.tokenizer.decode(&[token], false)?,
            sequence: self.tokenizer.decode(&ids, only_mask)?,
        })
    }
}

/// The k largest logits of a row with their softmax, best first; of equals, the smaller id first.
fn top(logits: &[f32], k: usize, found: &Found) -> Vec<(u32, f32)> {
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let order = |&a: &u32, &b: &u32| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b));
    if k < ids.len() {
        ids.select_nth_unstable_by(k, order);
        ids.truncate(k);
    }
    ids.sort_unstable_by(order);
    ids.into_iter().map(|id| (id, found.probability(logits[id as usize]))).collect()
}

/// Where one token stands in the order of [`top`].
fn rank(logits: &[f32], token: u32, found: &Found) -> GoldRank {
    let gold = logits[token as usize];
    let before = |&(id, &z): &(usize, &f32)| z.total_cmp(&gold).then((token as usize).cmp(&id)).is_gt();
    let rank = 1 + logits.iter().enumerate().filter(before).count();
    GoldRank { score: found.probability(gold), token, rank }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::top_k::tests::found;

    #[test]
    fn a_rank_is_the_place_in_the_order_of_all() {
        let logits = [0.0, 2.0, -1.0, 2.0, f32::MIN];
        let found = &found(&logits, 5, 1)[0];
        for (place, (token, score)) in top(&logits, 5, found).into_iter().enumerate() {
            assert_eq!(rank(&logits, token, found), GoldRank { score, token, rank: place + 1 });
        }
    }

    #[test]
    fn top_orders_and_normalises() {
        let logits = [0.0, 2.0, -1.0, 2.0];
        let of_all = &found(&logits, 4, 3)[0];
        let answers = top(&logits, 3, of_all);
        assert_eq!(answers.iter().map(|a| a.0).collect::<Vec<_>>(), [1, 3, 0]);
        // As the device finds them.
        let largest = of_all.largest.as_ref().unwrap();
        let found_there = largest.iter().map(|&(id, logit)| (id, of_all.probability(logit)));
        assert_eq!(answers, found_there.collect::<Vec<_>>());
        let all: f32 = top(&logits, 9, of_all).iter().map(|a| a.1).sum();
        assert!((all - 1.0).abs() < 1e-6);
        assert!(top(&[1000.0, 0.0], 1, &found(&[1000.0, 0.0], 2, 1)[0])[0].1 == 1.0);
    }
}
