//! A bar for each system, with the rounds as dots on it.

use std::path::Path;

use plotters::prelude::*;

use crate::measure::Section;

/// Of all plots.
pub const COLORS: [RGBColor; 6] = [
    RGBColor(46, 107, 79),
    RGBColor(124, 174, 150),
    RGBColor(168, 200, 184),
    RGBColor(176, 128, 74),
    RGBColor(96, 110, 140),
    RGBColor(150, 150, 150),
];

/// On a logarithmic scale where one system does more than twenty times what another does.
pub fn bars(file: &Path, section: &Section) {
    let figures = &section.figures;
    let values: Vec<f64> = figures.iter().map(|figure| figure.median).collect();
    let (most, least) = (values.iter().copied().fold(0.0, f64::max), values.iter().copied().fold(f64::MAX, f64::min));
    let is_logarithmic = most / least > 20.0;
    let scale = |value: f64| if is_logarithmic { value.max(1e-9).log10() } else { value };
    let bottom = if is_logarithmic { (least / 4.0).log10().floor() } else { 0.0 };
    let top = scale(most) + (scale(most) - bottom) * 0.12;

    let height = 110 + 44 * figures.len() as u32;
    let area = SVGBackend::new(file, (860, height)).into_drawing_area();
    area.fill(&WHITE).expect("a plot");
    let title = format!("{}, {}{}", section.title, section.unit, if is_logarithmic { ", logarithmic" } else { "" });
    let rows = figures.len() as f64;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(10)
        .build_cartesian_2d(bottom..top, 0.0..rows)
        .expect("a plot");
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(TRANSPARENT)
        .x_labels(8)
        .x_label_formatter(&|value| if is_logarithmic { short(10f64.powf(*value)) } else { short(*value) })
        .draw()
        .expect("a plot");
    for (index, figure) in figures.iter().enumerate() {
        let row = rows - 1.0 - index as f64;
        let color = COLORS[index % COLORS.len()];
        let bar = Rectangle::new([(bottom, row + 0.12), (scale(figure.median), row + 0.62)], color.filled());
        let dots =
            figure.rounds.iter().map(|value| Circle::new((scale(*value), row + 0.37), 3, BLACK.mix(0.55).filled()));
        let label = format!("{}: {}", figure.system, short(figure.median));
        chart.draw_series([bar]).expect("a plot");
        chart.draw_series(dots).expect("a plot");
        let text = Text::new(label, (bottom, row + 0.95), ("sans-serif", 14).into_font().color(&BLACK));
        chart.draw_series([text]).expect("a plot");
    }
    area.present().expect("a file");
}

/// Three digits, and a letter for thousands.
pub fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{:.3}M", value / 1e6).replace(".000M", "M"),
        value if value >= 1e4 => format!("{:.0}k", value / 1e3),
        value if value >= 1e3 => format!("{:.1}k", value / 1e3),
        value if value >= 10.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    }
}
