//! Bar charts, as SVG by hand.

use std::fmt::Write as _;

/// A chart of horizontal bars, in groups with a label each.
pub struct Chart {
    pub title: String,
    /// What is measured, in which unit, and which way is better.
    pub subtitle: String,
    /// What the bars of a group stand for; empty if there is one in each.
    pub series: Vec<&'static str>,
    pub bars: Vec<Bars>,
    pub scale: Scale,
}

/// A label and its bars, one for each series.
pub struct Bars {
    pub label: String,
    pub ours: bool,
    /// Each with the text that stands at its end.
    pub values: Vec<(f64, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    Linear,
    /// For values that differ by orders of magnitude. The length of a bar means nothing then, so each
    /// is a dot on a thin line.
    Logarithmic,
}

const WIDTH: f64 = 800.0;
const LEFT: f64 = 292.0;
const RIGHT: f64 = 668.0;
const BAR: f64 = 15.0;
const GAP: f64 = 11.0;
/// Ours and theirs, by series.
const OURS: [&str; 2] = ["#c2410c", "#fb923c"];
const THEIRS: [&str; 2] = ["#475569", "#94a3b8"];

impl Chart {
    /// Draws the chart, our bars and theirs in the order of their first values.
    #[must_use]
    pub fn svg(mut self) -> String {
        self.bars.sort_by(|a, b| a.values[0].0.total_cmp(&b.values[0].0));
        let top = if self.series.is_empty() { 66.0 } else { 88.0 };
        let group = |bars: &Bars| bars.values.len() as f64 * (BAR + 2.0) + GAP;
        let bottom = top + self.bars.iter().map(group).sum::<f64>();
        let height = bottom + 34.0;

        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
             font-family=\"system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif\" font-size=\"13\">\n\
             <rect x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\" fill=\"#ffffff\" \
             stroke=\"#e2e8f0\"/>\n",
            WIDTH - 1.0,
            height - 1.0,
        );
        text(
            &mut svg,
            20.0,
            29.0,
            "font-size=\"16\" font-weight=\"600\" fill=\"#0f172a\"",
            &self.title,
        );
        text(&mut svg, 20.0, 49.0, "fill=\"#64748b\"", &self.subtitle);
        self.legend(&mut svg);

        let axis = Axis::of(&self);
        for tick in axis.ticks() {
            let x = axis.x(tick);
            element(
                &mut svg,
                &format!(
                    "line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\" stroke=\"#e2e8f0\""
                ),
            );
            let style = "fill=\"#64748b\" font-size=\"11\" text-anchor=\"middle\"";
            text(&mut svg, x, bottom + 17.0, style, &plain(tick));
        }

        let mut y = top + GAP / 2.0;
        for bars in &self.bars {
            let middle = y + bars.values.len() as f64 * (BAR + 2.0) / 2.0 + 3.5;
            let weight = if bars.ours { "600" } else { "400" };
            let style = format!("text-anchor=\"end\" fill=\"#0f172a\" font-weight=\"{weight}\"");
            text(&mut svg, LEFT - 10.0, middle, &style, &bars.label.replace('`', ""));
            for (series, (value, note)) in bars.values.iter().enumerate() {
                let color = if bars.ours { OURS[series] } else { THEIRS[series] };
                let x = axis.x(*value).max(LEFT);
                self.scale.bar(&mut svg, x, y, color);
                let style = format!("fill=\"#334155\" font-size=\"12\" font-weight=\"{weight}\"");
                text(&mut svg, x + 9.0, y + BAR - 3.0, &style, note);
                y += BAR + 2.0;
            }
            y += GAP;
        }
        element(
            &mut svg,
            &format!(
                "line x1=\"{LEFT}\" y1=\"{top}\" x2=\"{LEFT}\" y2=\"{bottom}\" stroke=\"#94a3b8\""
            ),
        );
        svg.push_str("</svg>\n");
        svg
    }

    fn legend(&self, svg: &mut String) {
        let mut x = LEFT;
        for (series, name) in self.series.iter().enumerate() {
            for (at, color) in [OURS[series], THEIRS[series]].into_iter().enumerate() {
                let x = x + 13.0 * at as f64;
                element(
                    svg,
                    &format!(
                        "rect x=\"{x}\" y=\"66\" width=\"11\" height=\"11\" rx=\"2\" fill=\"{color}\""
                    ),
                );
            }
            text(svg, x + 31.0, 76.0, "fill=\"#334155\" font-size=\"12\"", name);
            x += 140.0;
        }
    }
}

impl Scale {
    fn bar(self, svg: &mut String, x: f64, y: f64, color: &str) {
        match self {
            Self::Linear => element(
                svg,
                &format!(
                    "rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\" \
                 fill=\"{color}\"",
                    (x - LEFT).max(1.0),
                ),
            ),
            Self::Logarithmic => {
                let y = y + BAR / 2.0;
                element(
                    svg,
                    &format!(
                        "line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{x:.1}\" y2=\"{y:.1}\" \
                     stroke=\"{color}\" stroke-width=\"1.5\" stroke-opacity=\"0.45\""
                    ),
                );
                element(
                    svg,
                    &format!("circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" fill=\"{color}\""),
                );
            }
        }
    }
}

struct Axis {
    scale: Scale,
    from: f64,
    to: f64,
    step: f64,
}

impl Axis {
    fn of(chart: &Chart) -> Self {
        let values = || chart.bars.iter().flat_map(|bars| &bars.values).map(|(value, _)| *value);
        let most = values().fold(f64::MIN_POSITIVE, f64::max);
        match chart.scale {
            Scale::Linear => {
                // Four to eight steps of 1, 2 or 5 times a power of ten.
                let power = 10_f64.powf((most / 4.0).log10().floor());
                let fits = |step: &f64| most / step <= 8.0;
                let step = [1.0, 2.0, 5.0].map(|step| step * power).into_iter().find(fits);
                let step = step.unwrap_or(10.0 * power);
                Self { scale: chart.scale, from: 0.0, to: (most / step).ceil() * step, step }
            }
            Scale::Logarithmic => {
                let least = values().filter(|value| *value > 0.0).fold(f64::MAX, f64::min);
                Self {
                    scale: chart.scale,
                    from: least.log10().floor(),
                    to: most.log10().ceil(),
                    step: 1.0,
                }
            }
        }
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        let count = ((self.to - self.from) / self.step).round() as i32;
        (0..=count).map(|at| {
            let tick = self.from + f64::from(at) * self.step;
            match self.scale {
                Scale::Linear => tick,
                Scale::Logarithmic => 10_f64.powf(tick),
            }
        })
    }

    fn x(&self, value: f64) -> f64 {
        let value = match self.scale {
            Scale::Linear => value,
            Scale::Logarithmic => value.max(f64::MIN_POSITIVE).log10(),
        };
        LEFT + (value - self.from) / (self.to - self.from) * (RIGHT - LEFT)
    }
}

fn element(svg: &mut String, inside: &str) {
    writeln!(svg, "<{inside}/>").expect("strings take all");
}

fn text(svg: &mut String, x: f64, y: f64, style: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{text}</text>")
        .expect("strings take all");
}

/// A tick's number, without a fraction of zeros.
fn plain(tick: f64) -> String {
    let rounded = (tick * 1000.0).round() / 1000.0;
    if rounded.fract() == 0.0 {
        crate::page::thousands(rounded as i64)
    } else {
        rounded.to_string()
    }
}
