//! A run's losses as a picture.

use std::path::Path;

use plotters::prelude::*;
use serde_json::Value;

use crate::Result;

/// The picture's name, beside the log it is drawn from.
pub(crate) const FILE: &str = "loss.svg";

/// What can be read on white and on black alike.
const TEXT: RGBColor = RGBColor(128, 128, 128);
const TRAINING: RGBColor = RGBColor(52, 131, 201);
const HELD_OUT: RGBColor = RGBColor(221, 126, 35);

/// Draws the losses of a `metrics.jsonl` over its steps. `None` where it holds too few to draw.
pub(crate) fn draw(metrics: &Path) -> Result<Option<String>> {
    let log = std::fs::read_to_string(metrics)?;
    let entries: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let series = |key: &str| -> Vec<(f64, f64)> {
        let point = |entry: &Value| Some((entry.get("step")?.as_f64()?, entry.get(key)?.as_f64()?));
        entries.iter().filter_map(point).filter(|(_, loss)| loss.is_finite()).collect()
    };
    let (training, held_out) = (series("loss"), series("eval_loss"));
    let all = || training.iter().chain(&held_out);
    let steps = all().map(|(step, _)| *step).fold(0.0, f64::max);
    if all().count() < 2 || steps == 0.0 {
        return Ok(None);
    }
    let low = all().map(|(_, loss)| *loss).fold(f64::MAX, f64::min);
    let high = all().map(|(_, loss)| *loss).fold(f64::MIN, f64::max);
    let margin = ((high - low) * 0.05).max(0.01);

    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (720, 360)).into_drawing_area();
        let font = || ("sans-serif", 14).into_font().color(&TEXT);
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(52)
            .build_cartesian_2d(0.0..steps, (low - margin)..(high + margin))?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(TEXT.mix(0.25))
            .axis_style(TEXT)
            .x_desc("step")
            .y_desc("loss")
            .x_labels(8)
            .y_labels(6)
            .x_label_formatter(&|step| format!("{step:.0}"))
            .y_label_formatter(&|loss| format!("{loss:.2}"))
            .label_style(font())
            .axis_desc_style(font())
            .draw()?;
        for (points, color, name) in [(&training, TRAINING, "training"), (&held_out, HELD_OUT, "held out")] {
            if points.is_empty() {
                continue;
            }
            chart
                .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)).point_size(2))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(3)));
        }
        chart.configure_series_labels().label_font(font()).border_style(TRANSPARENT).draw()?;
        area.present()?;
    }
    Ok(Some(svg))
}
