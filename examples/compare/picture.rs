//! The picture: what had arrived by when, a panel for each contender.

use std::path::Path;

use plotters::prelude::*;

use crate::BoxError;
use crate::contender::Contender;
use crate::outages::{CUT, Curve, FROZEN, LASTS, RATE, RENUMBERED};

const SIZE: (u32, u32) = (960, 560);

const SENT: RGBColor = RGBColor(170, 170, 170);
const ARRIVED: RGBColor = RGBColor(0, 90, 180);
const OUTAGE: RGBColor = RGBColor(200, 60, 40);

/// `curves` as [`Contender::IN_OUTAGES`].
pub fn draw(path: &Path, curves: &[Curve]) -> Result<(), BoxError> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let title = "MiB that have arrived, through three outages";
    let root = root.titled(title, ("sans-serif", 20))?;
    let panels = root.split_evenly((2, 3));
    for ((panel, contender), curve) in panels.iter().zip(Contender::IN_OUTAGES).zip(curves) {
        draw_panel(panel, contender, curve)?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel(
    panel: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    contender: Contender,
    curve: &Curve,
) -> Result<(), BoxError> {
    let seconds = LASTS.as_secs_f64();
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let top = mib(RATE as f64) * seconds;
    let mut chart = ChartBuilder::on(panel)
        .caption(contender.name(), ("sans-serif", 16))
        .margin(8)
        .x_label_area_size(32)
        .y_label_area_size(32)
        .build_cartesian_2d(0.0..seconds, 0.0..top)?;
    let whole = |value: &f64| format!("{value:.0}");
    let mut mesh = chart.configure_mesh();
    mesh.disable_mesh().x_labels(7).x_label_formatter(&whole).y_label_formatter(&whole);
    mesh.x_desc("seconds").draw()?;

    let [from, to] = FROZEN.map(|at| at.as_secs_f64());
    let frozen = Rectangle::new([(from, 0.0), (to, top)], OUTAGE.mix(0.15).filled());
    chart.draw_series([frozen])?;
    for at in [RENUMBERED, CUT].map(|at| at.as_secs_f64()) {
        chart.draw_series(LineSeries::new([(at, 0.0), (at, top)], OUTAGE.stroke_width(1)))?;
    }
    // Upwards, beside what happens, where no curve is.
    let upright = ("sans-serif", 11).into_font().color(&OUTAGE).transform(FontTransform::Rotate270);
    let notes = [
        (from, 0.6, "nothing passes"),
        (RENUMBERED.as_secs_f64(), 0.02, "another address"),
        (CUT.as_secs_f64(), 0.02, "connection cut"),
    ];
    let note = |(at, height, note)| Text::new(note, (at + 0.15, top * height), upright.clone());
    chart.draw_series(notes.map(note))?;

    let sent = LineSeries::new([(0.0, 0.0), (seconds, top)], SENT.stroke_width(1));
    chart.draw_series(sent)?;
    let arrived = curve.iter().map(|(at, bytes)| (*at, mib(*bytes as f64)));
    chart.draw_series(LineSeries::new(arrived, ARRIVED.stroke_width(2)))?;
    Ok(())
}
