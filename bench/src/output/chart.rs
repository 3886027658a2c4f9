//! Draws an SVG page of panels: line charts and bar charts under one title.
//!
//! Light ground, text as text, colours that colour-blind readers tell apart, legends above the curves. A panel
//! without a single finite figure says so instead of drawing an empty frame.

use std::ops::Range;

use plotters::{
    coord::{
        Shift,
        ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter},
    },
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::scale::{Scale, Span, Tick, Unit};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Width of every page in pixels.
const PAGE_PX: i32 = 960;
/// Room left of a plot for the ticks' texts.
const LEFT_PX: i32 = 78;
const RIGHT_PX: i32 = 42;
const LEGEND_ROW_PX: i32 = 22;

/// What fits into a line of a heading.
const HEADING_CHARACTERS: usize = 104;

const INK: RGBColor = RGBColor(0x1f, 0x29, 0x33);
const FAINT_INK: RGBColor = RGBColor(0x5f, 0x6b, 0x7a);
const GRID: RGBColor = RGBColor(0xe4, 0xe8, 0xec);
const BAND: RGBColor = RGBColor(0xdd, 0xee, 0xe6);

/// Okabe and Ito's colours, without the yellow that is lost on white.
const PALETTE: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0x4d, 0x4d, 0x4d),
];

/// A part of a page.
#[derive(Clone, Debug)]
pub(crate) enum Panel {
    /// A title over the panels that follow.
    Heading(String),
    /// Curves over two axes.
    Lines(Lines),
    /// One bar per thing.
    Bars(Bars),
}

/// Curves over two axes.
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    /// Figures of `y` that are shaded, and what that means.
    pub(crate) band: Option<(f64, f64, String)>,
    pub(crate) lines: Vec<Line>,
    pub(crate) height_px: i32,
}

/// One axis.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    pub(crate) name: String,
    pub(crate) scale: Scale,
    pub(crate) unit: Unit,
}

/// One curve. Curves of one name share an entry of the legend.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// Index of its colour; beyond the palette curves are dashed.
    pub(crate) color: usize,
    pub(crate) points: Vec<(f64, f64)>,
}

/// One bar per thing, from zero, with the range over its runs as a whisker.
#[derive(Clone, Debug)]
pub(crate) struct Bars {
    pub(crate) title: String,
    pub(crate) unit: Unit,
    pub(crate) bars: Vec<Bar>,
}

/// One thing's bar.
#[derive(Clone, Debug)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) color: usize,
    pub(crate) middle: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    pub(crate) text: String,
}

/// Draws the page; `note` stands small below `title`.
pub(crate) fn page(title: &str, note: &str, panels: &[Panel]) -> String {
    let titles = wrapped(title, 92);
    let notes = wrapped(note, 132);
    let head_px = if title.is_empty() { 6 } else { 22 + 24 * titles.len() as i32 + 18 * notes.len() as i32 };
    let heights: Vec<i32> = panels.iter().map(Panel::height_px).collect();
    let height_px = head_px + heights.iter().sum::<i32>().max(20);
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (PAGE_PX as u32, height_px as u32)).into_drawing_area();
        // The only writer is the string above.
        draw_page(&root, &titles, &notes, head_px, panels).expect("memory takes every drawing");
    }
    svg
}

fn draw_page(root: &Area, titles: &[String], notes: &[String], head_px: i32, panels: &[Panel]) -> Drawn {
    root.fill(&WHITE)?;
    let mut y = 24;
    for title in titles {
        root.draw_text(title, &bold(17.0), (22, y))?;
        y += 24;
    }
    for note in notes {
        root.draw_text(note, &text(12.0, &FAINT_INK, HPos::Left), (22, y - 2))?;
        y += 18;
    }
    let mut rest = root.split_vertically(head_px).1;
    for panel in panels {
        let (area, below) = rest.split_vertically(panel.height_px());
        match panel {
            Panel::Heading(title) => draw_heading(&area, title)?,
            Panel::Lines(lines) => lines.draw(&area)?,
            Panel::Bars(bars) => bars.draw(&area)?,
        }
        rest = below;
    }
    root.present()
}

fn draw_heading(area: &Area, title: &str) -> Drawn {
    area.draw(&PathElement::new([(22, 6), (PAGE_PX - RIGHT_PX, 6)], GRID))?;
    for (row, line) in wrapped(title, HEADING_CHARACTERS).iter().enumerate() {
        area.draw_text(line, &bold(15.0), (22, 26 + row as i32 * 20))?;
    }
    Ok(())
}

impl Panel {
    fn height_px(&self) -> i32 {
        match self {
            Self::Heading(title) => 20 + wrapped(title, HEADING_CHARACTERS).len() as i32 * 20,
            Self::Lines(lines) => lines.height_px + lines.legend_rows().len() as i32 * LEGEND_ROW_PX,
            Self::Bars(bars) => 66 + bars.bars.len() as i32 * 30,
        }
    }
}

impl Lines {
    fn draw(&self, area: &Area) -> Drawn {
        area.draw_text(&self.title, &bold(14.0), (22, 16))?;
        let curves: Vec<(&Line, Vec<(f64, f64)>)> =
            self.lines.iter().map(|line| (line, self.positions(line))).collect();
        let points = || curves.iter().flat_map(|(_, points)| points.iter().copied());
        if points().next().is_none() {
            return area.draw_text("nothing was recorded", &text(13.0, &FAINT_INK, HPos::Left), (22, 44));
        }
        let band = self.band.as_ref().map(|(from, to, _)| [*from, *to]).unwrap_or_default();
        let band = band.into_iter().filter_map(|figure| self.y.scale.position(figure));
        let x = Mesh::new(&self.x, points().map(|point| point.0));
        let y = Mesh::new(&self.y, points().map(|point| point.1).chain(band));
        let legend_px = self.draw_legend(area)?;
        let mut chart = ChartBuilder::on(area)
            .margin_top(34 + legend_px)
            .margin_right(RIGHT_PX)
            .margin_left(8)
            .margin_bottom(6)
            .x_label_area_size(48)
            .y_label_area_size(LEFT_PX)
            .build_cartesian_2d(x, y)?;
        if let Some((from, to, _)) = &self.band {
            let edge = |figure: f64| self.y.scale.position(figure).unwrap_or_default();
            let across = chart.x_range();
            let corners = [(across.start, edge(*from)), (across.end, edge(*to))];
            chart.draw_series([Rectangle::new(corners, BAND.filled())])?;
        }
        chart
            .configure_mesh()
            .bold_line_style(GRID)
            .axis_style(FAINT_INK)
            .label_style(text(12.0, &INK, HPos::Center))
            .axis_desc_style(text(12.5, &FAINT_INK, HPos::Center))
            .x_desc(&self.x.name)
            .y_desc(&self.y.name)
            .draw()?;
        for (line, points) in &curves {
            let color = color(line.color);
            let style = color.stroke_width(2);
            if points.len() <= 12 {
                chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, color.filled())))?;
            }
            if line.color < PALETTE.len() {
                chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
            } else {
                chart.draw_series(DashedLineSeries::new(points.iter().copied(), 7, 5, style))?;
            }
        }
        Ok(())
    }

    /// Points that both axes have a place for, from left to right.
    fn positions(&self, line: &Line) -> Vec<(f64, f64)> {
        let position = |&(x, y): &(f64, f64)| Some((self.x.scale.position(x)?, self.y.scale.position(y)?));
        let mut points: Vec<(f64, f64)> = line.points.iter().filter_map(position).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    }

    /// The legend's entries: name and colour, no colour for the band.
    fn legend_rows(&self) -> Vec<Vec<(i32, &str, Option<usize>)>> {
        let mut names: Vec<(&str, Option<usize>)> = Vec::new();
        for line in &self.lines {
            if !names.contains(&(&line.name, Some(line.color))) {
                names.push((&line.name, Some(line.color)));
            }
        }
        names.extend(self.band.iter().map(|(_, _, meaning)| (meaning.as_str(), None)));
        let mut rows: Vec<Vec<(i32, &str, Option<usize>)>> = Vec::new();
        let mut x = i32::MAX;
        for (name, color) in names {
            let width = 54 + (name.chars().count() as f64 * 6.9) as i32;
            if x.saturating_add(width) > PAGE_PX - RIGHT_PX {
                rows.push(Vec::new());
                x = LEFT_PX + 8;
            }
            rows.last_mut().expect("a row was just begun").push((x, name, color));
            x += width;
        }
        rows
    }

    fn draw_legend(&self, area: &Area) -> Result<i32, DrawingAreaErrorKind<std::io::Error>> {
        let rows = self.legend_rows();
        for (row, entries) in rows.iter().enumerate() {
            let y = 40 + row as i32 * LEGEND_ROW_PX;
            for (x, name, index) in entries {
                match index {
                    Some(index) if *index < PALETTE.len() => {
                        let stroke = color(*index).stroke_width(3);
                        area.draw(&PathElement::new([(*x, y), (x + 24, y)], stroke))?;
                    }
                    Some(index) => {
                        for from in [*x, x + 9, x + 18] {
                            let stroke = color(*index).stroke_width(3);
                            area.draw(&PathElement::new([(from, y), (from + 6, y)], stroke))?;
                        }
                    }
                    None => area.draw(&Rectangle::new([(*x, y - 6), (x + 24, y + 6)], BAND.filled()))?,
                }
                area.draw_text(name, &text(12.5, &INK, HPos::Left), (x + 32, y))?;
            }
        }
        Ok(rows.len() as i32 * LEGEND_ROW_PX)
    }
}

impl Bars {
    fn draw(&self, area: &Area) -> Drawn {
        area.draw_text(&self.title, &bold(14.0), (22, 16))?;
        let left = 300;
        let width = f64::from(PAGE_PX - left - 150);
        let most = self.bars.iter().map(|bar| bar.most).filter(|most| most.is_finite()).fold(0.0, f64::max);
        let span = Scale::Linear.span(std::iter::once(most));
        let x = |figure: f64| left + (figure.max(0.0) / span.to * width) as i32;
        let bottom = 34 + self.bars.len() as i32 * 30;
        for tick in Scale::Linear.ticks(span, self.unit) {
            let at = x(tick.position);
            area.draw(&PathElement::new([(at, 32), (at, bottom)], GRID))?;
            area.draw_text(&tick.text, &text(12.0, &FAINT_INK, HPos::Center), (at, bottom + 12))?;
        }
        for (row, bar) in self.bars.iter().enumerate() {
            let y = 34 + row as i32 * 30;
            area.draw_text(&bar.name, &text(12.5, &INK, HPos::Right), (left - 10, y + 12))?;
            if !bar.middle.is_finite() {
                area.draw_text(&bar.text, &text(12.5, &FAINT_INK, HPos::Left), (left + 8, y + 12))?;
                continue;
            }
            let corners = [(left, y + 3), (x(bar.middle), y + 21)];
            area.draw(&Rectangle::new(corners, color(bar.color).mix(0.82).filled()))?;
            let mut end = x(bar.middle);
            if bar.least < bar.most {
                let whisker = INK.stroke_width(1);
                let (from, to) = (x(bar.least), x(bar.most));
                area.draw(&PathElement::new([(from, y + 12), (to, y + 12)], whisker))?;
                for at in [from, to] {
                    area.draw(&PathElement::new([(at, y + 8), (at, y + 16)], whisker))?;
                }
                end = end.max(to);
            }
            area.draw_text(&bar.text, &text(12.5, &INK, HPos::Left), (end + 8, y + 12))?;
        }
        Ok(())
    }
}

/// An axis with its span and ticks.
struct Mesh {
    span: Span,
    ticks: Vec<Tick>,
}

impl Mesh {
    fn new(axis: &Axis, positions: impl Iterator<Item = f64>) -> Self {
        let span = axis.scale.span(positions);
        Self { span, ticks: axis.scale.ticks(span, axis.unit) }
    }
}

impl Ranged for Mesh {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, position: &f64, (from_px, to_px): (i32, i32)) -> i32 {
        let share = (position - self.span.from) / (self.span.to - self.span.from);
        from_px + (share * f64::from(to_px - from_px)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // Light points would be grid lines without a text.
        let shown = if hint.weight().allow_light_points() { &[][..] } else { &self.ticks };
        shown.iter().map(|tick| tick.position).collect()
    }

    fn range(&self) -> Range<f64> {
        self.span.from..self.span.to
    }
}

impl ValueFormatter<f64> for Mesh {
    fn format(position: &f64) -> String {
        position.to_string()
    }

    fn format_ext(&self, position: &f64) -> String {
        let tick = self.ticks.iter().find(|tick| (tick.position - position).abs() < 1e-9);
        tick.map(|tick| tick.text.clone()).unwrap_or_default()
    }
}

fn color(index: usize) -> RGBColor {
    PALETTE[index % PALETTE.len()]
}

/// Text whose point is at its middle height.
fn text(size_px: f64, ink: &RGBColor, side: HPos) -> TextStyle<'static> {
    // The backend writes a font 1.24 times smaller than asked for.
    let style = ("sans-serif", size_px * 1.24).into_font().color(ink);
    style.pos(Pos::new(side, VPos::Center))
}

fn bold(size_px: f64) -> TextStyle<'static> {
    let font = ("sans-serif", size_px * 1.24).into_font().style(FontStyle::Bold);
    font.color(&INK).pos(Pos::new(HPos::Left, VPos::Center))
}

/// Lines of at most `width` characters, broken between words.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(points: Vec<(f64, f64)>) -> Panel {
        let axis = |name: &str, scale, unit| Axis { name: name.to_owned(), scale, unit };
        Panel::Lines(Lines {
            title: "delay <by> percentile".into(),
            x: axis("share of messages", Scale::Percent, Unit::Percent),
            y: axis("delay", Scale::Log, Unit::Micros),
            band: None,
            lines: vec![Line { name: "fast & furious".into(), color: 0, points }],
            height_px: 300,
        })
    }

    #[test]
    fn a_page_carries_its_words_as_escaped_text() {
        let svg = page("headline", "the machine", &[lines(vec![(0.0, 3.0), (99.0, 40.0), (99.9, 70.0)])]);
        for word in [
            "headline",
            "the machine",
            "delay &lt;by&gt; percentile",
            "fast &amp; furious",
            "99.9 %",
            "10 µs",
        ] {
            assert!(svg.contains(word), "{word} is missing in {svg}");
        }
    }

    #[test]
    fn no_or_one_or_broken_points_draw_no_impossible_coordinate() {
        let inputs = [
            vec![],
            vec![(50.0, 12.0)],
            vec![(f64::NAN, 1.0), (50.0, f64::INFINITY), (100.0, 3.0), (20.0, -1.0)],
        ];
        for points in inputs {
            let svg = page("", "", &[lines(points.clone())]);
            assert!(svg.ends_with("</svg>\n"), "{points:?}");
            for wrong in ["NaN", "inf", "-2147483648", "2147483647"] {
                assert!(!svg.contains(wrong), "{wrong} for {points:?} in {svg}");
            }
        }
    }

    #[test]
    fn a_panel_without_figures_says_so() {
        assert!(page("", "", &[lines(vec![])]).contains("nothing was recorded"));
    }

    #[test]
    fn a_bar_without_a_figure_keeps_its_row_and_its_words() {
        let bar = |name: &str, middle: f64| Bar {
            name: name.into(),
            color: 0,
            middle,
            least: middle,
            most: middle,
            text: format!("{name}'s text"),
        };
        let bars = vec![bar("one", 5.0), bar("none", f64::NAN)];
        let svg = page("", "", &[Panel::Bars(Bars { title: "rate".into(), unit: Unit::Count, bars })]);
        assert!(svg.contains("none&apos;s text") || svg.contains("none's text"), "{svg}");
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn long_titles_are_broken_between_words() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("unbreakable", 3), ["unbreakable"]);
        assert_eq!(wrapped("a b\nc", 9), ["a b", "c"]);
    }
}
