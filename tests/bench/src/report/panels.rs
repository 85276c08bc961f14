//! Several panels over one axis of time, with a line for each series.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::plot::{COLORS, short};

const WIDTH: u32 = 860;
const HEIGHT: u32 = 170;

pub struct Panel {
    pub title: &'static str,
    pub lines: Vec<Line>,
}

/// `name` is for panels that have several.
pub struct Line {
    pub name: &'static str,
    pub points: Vec<(f64, f64)>,
}

/// One below the other; from zero, so that a slope is as large as it looks.
pub fn panels(file: &Path, axis: &str, all: &[Panel]) {
    let area = SVGBackend::new(file, (WIDTH, HEIGHT * all.len() as u32)).into_drawing_area();
    area.fill(&WHITE).expect("a plot");
    let times = all.iter().flat_map(|panel| &panel.lines).flat_map(|line| line.points.iter().map(|point| point.0));
    let (first, last) = times.fold((0.0, 0.1), |(first, last): (f64, f64), time| (first.min(time), last.max(time)));
    let rows = area.split_evenly((all.len(), 1));
    for (index, (row, panel)) in rows.iter().zip(all).enumerate() {
        let axis = if index + 1 == all.len() { axis } else { "" };
        draw(row, panel, first..last, axis);
    }
    area.present().expect("a file");
}

fn draw(area: &DrawingArea<SVGBackend<'_>, Shift>, panel: &Panel, time: std::ops::Range<f64>, axis: &str) {
    let most = panel.lines.iter().flat_map(|line| &line.points).map(|point| point.1).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, ("sans-serif", 15))
        .margin(8)
        .x_label_area_size(if axis.is_empty() { 20 } else { 34 })
        .y_label_area_size(56)
        .build_cartesian_2d(time, 0.0..(most * 1.15).max(1e-3))
        .expect("a plot");
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(10)
        .y_labels(4)
        .x_desc(axis)
        .x_label_formatter(&|value| format!("{value:.4}").trim_end_matches('0').trim_end_matches('.').into())
        .y_label_formatter(&|value| if *value == 0.0 { "0".into() } else { short(*value) })
        .draw()
        .expect("a plot");
    for (line, color) in panel.lines.iter().zip([COLORS[0], COLORS[3], COLORS[4]]) {
        let style = color.stroke_width(2);
        let series = chart.draw_series(LineSeries::new(line.points.iter().copied(), style)).expect("a plot");
        if !line.name.is_empty() {
            series.label(line.name).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
        }
    }
    if panel.lines.len() > 1 {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .label_font(("sans-serif", 13))
            .background_style(WHITE.mix(0.8))
            .draw()
            .expect("a plot");
    }
}
