//! Where a figure lies on an axis, which figures get a tick, and how they are written.
//!
//! A scale turns figures into positions; the chart itself is linear in positions. That keeps the percentile
//! axis, which no drawing library knows, as simple as the others.

/// How figures become positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scale {
    /// Equal steps, from zero.
    Linear,
    /// Equal steps for equal ratios. Figures must be above zero.
    Log,
    /// Percent, with as much room for 90 to 99 as for 99 to 99.9: the scale of HDR histograms.
    Percent,
}

/// A figure on the axis and its text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tick {
    pub(crate) position: f64,
    pub(crate) text: String,
}

/// How figures of an axis are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Unit {
    /// 1 200 as `1.2k`.
    Count,
    /// Microseconds: 1 200 as `1.2 ms`.
    Micros,
    /// Bytes: 1 200 as `1.2 kB`.
    Bytes,
    /// Seconds, as they are.
    Seconds,
    /// Percent, with the digits the figure has.
    Percent,
    /// A ratio: 1.2 as `1.2 ×`.
    Times,
}

/// The positions an axis spans.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Span {
    pub(crate) from: f64,
    pub(crate) to: f64,
}

impl Scale {
    /// The position of `figure`; `None` where the scale has no place for it.
    pub(crate) fn position(self, figure: f64) -> Option<f64> {
        let position = match self {
            Self::Linear => figure,
            Self::Log => figure.log10(),
            Self::Percent => 2.0 - (100.0 - figure).log10(),
        };
        position.is_finite().then_some(position)
    }

    /// A span around `positions` that is never empty and ends on round figures where that costs little room.
    pub(crate) fn span(self, positions: impl Iterator<Item = f64>) -> Span {
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for position in positions.filter(|position| position.is_finite()) {
            least = least.min(position);
            most = most.max(position);
        }
        let none = least > most;
        match self {
            Self::Linear if none || most <= 0.0 => Span { from: 0.0, to: 1.0 },
            Self::Linear => Span { from: 0.0, to: most * 1.06 },
            Self::Log if none => Span { from: 0.0, to: 1.0 },
            Self::Log => Span { from: round_down(least), to: round_up(most).max(round_down(least) + 1.0) },
            Self::Percent => Span { from: 0.0, to: if none { 2.0 } else { most.max(1.0) } },
        }
    }

    /// Ticks within `span`.
    pub(crate) fn ticks(self, span: Span, unit: Unit) -> Vec<Tick> {
        let figures = match self {
            Self::Linear => linear_figures(span.to),
            Self::Log => log_figures(span),
            Self::Percent => {
                let nines = (1..=span.to.floor() as i32).map(|nines| 100.0 - 10f64.powi(2 - nines));
                [0.0, 50.0].into_iter().chain(nines).collect()
            }
        };
        let tick = |figure: f64| Some(Tick { position: self.position(figure)?, text: unit.text(figure) });
        figures.into_iter().filter_map(tick).collect()
    }
}

impl Unit {
    /// `figure` as a person reads it.
    pub(crate) fn text(self, figure: f64) -> String {
        match self {
            Self::Count => scaled(figure, &[(1e9, "G"), (1e6, "M"), (1e3, "k")], ""),
            Self::Micros => scaled(figure, &[(1e6, " s"), (1e3, " ms")], " µs"),
            Self::Bytes => scaled(figure, &[(1e9, " GB"), (1e6, " MB"), (1e3, " kB")], " B"),
            Self::Seconds => format!("{} s", plain(figure)),
            Self::Percent => format!("{} %", plain(figure)),
            Self::Times => format!("{} ×", plain(figure)),
        }
    }
}

fn scaled(figure: f64, units: &[(f64, &str)], smallest: &str) -> String {
    // Just below a unit, rounding to three digits reaches it: 999.96k is 1M.
    let fitting = units.iter().find(|(size, _)| figure.abs() >= size * 0.9995);
    let (size, name) = fitting.copied().unwrap_or((1.0, smallest));
    format!("{}{name}", plain(figure / size))
}

/// Three significant digits where there is a fraction; no zeros at the end. Nines stay nines.
fn plain(figure: f64) -> String {
    let magnitude = figure.abs();
    let digits = match magnitude {
        _ if (99.95..100.0).contains(&magnitude) => 8,
        _ if magnitude >= 99.95 => 0,
        _ if magnitude >= 9.995 => 1,
        _ if magnitude >= 0.9995 || magnitude == 0.0 => 2,
        _ => (2 - magnitude.log10().floor() as i32).clamp(0, 9) as usize,
    };
    let text = format!("{figure:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Zero and up to six round figures up to `most`.
fn linear_figures(most: f64) -> Vec<f64> {
    let rough = most / 5.0;
    let decade = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * decade);
    let step = step.into_iter().find(|step| *step >= rough * 0.999).unwrap_or(rough);
    (0..=6).map(|n| f64::from(n) * step).take_while(|figure| *figure <= most * 1.000_001).collect()
}

/// Powers of ten, and 2 and 5 of them where there are few.
fn log_figures(span: Span) -> Vec<f64> {
    let factors: &[f64] = match span.to - span.from {
        decades if decades <= 1.55 => &[1.0, 2.0, 5.0],
        decades if decades <= 2.55 => &[1.0, 3.0],
        _ => &[1.0],
    };
    let decades = (span.from.floor() as i32)..=(span.to.ceil() as i32);
    let figures = decades.flat_map(|decade| factors.iter().map(move |factor| factor * 10f64.powi(decade)));
    let inside = |figure: &f64| (span.from - 1e-9..=span.to + 1e-9).contains(&figure.log10());
    figures.filter(inside).collect()
}

/// The position of the round figure (1, 2 or 5 times a power of ten) at or below.
fn round_down(position: f64) -> f64 {
    let decade = (position + 1e-9).floor();
    let rest = position + 1e-9 - decade;
    let round = [5f64.log10(), 2f64.log10()].into_iter().find(|round| rest >= *round).unwrap_or(0.0);
    decade + round
}

/// The position of the round figure at or above.
fn round_up(position: f64) -> f64 {
    let decade = (position - 1e-9).floor();
    let rest = position - 1e-9 - decade;
    let round = [2f64.log10(), 5f64.log10()].into_iter().find(|round| rest <= *round).unwrap_or(1.0);
    decade + round
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(scale: Scale, to: f64, unit: Unit) -> Vec<String> {
        scale.ticks(Span { from: 0.0, to }, unit).into_iter().map(|tick| tick.text).collect()
    }

    #[test]
    fn each_further_nine_takes_as_much_room_as_the_one_before() {
        let position = |percent| Scale::Percent.position(percent).unwrap();
        assert!((position(90.0) - 1.0).abs() < 1e-9);
        assert!((position(99.0) - 2.0).abs() < 1e-9);
        assert!((position(99.999) - 5.0).abs() < 1e-6);
        assert_eq!(Scale::Percent.position(100.0), None);
        assert_eq!(
            texts(Scale::Percent, 5.3, Unit::Percent),
            ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"]
        );
    }

    #[test]
    fn ticks_are_round_and_carry_their_unit() {
        assert_eq!(texts(Scale::Linear, 1.06e6, Unit::Count), ["0", "250k", "500k", "750k", "1M"]);
        assert_eq!(texts(Scale::Log, 4.0, Unit::Micros), ["1 µs", "10 µs", "100 µs", "1 ms", "10 ms"]);
        assert_eq!(texts(Scale::Log, 1.0, Unit::Micros), ["1 µs", "2 µs", "5 µs", "10 µs"]);
        assert_eq!(texts(Scale::Linear, 3.1, Unit::Seconds), ["0 s", "1 s", "2 s", "3 s"]);
    }

    #[test]
    fn figures_read_as_a_person_writes_them() {
        for (figure, text) in [(0.0, "0"), (12.345, "12.3"), (999_960.0, "1M"), (1_234.0, "1.23k")] {
            assert_eq!(Unit::Count.text(figure), text);
        }
        assert_eq!(Unit::Micros.text(0.004_2), "0.0042 µs");
        assert_eq!(Unit::Micros.text(2_500_000.0), "2.5 s");
    }

    #[test]
    fn a_span_is_never_empty() {
        for scale in [Scale::Linear, Scale::Log, Scale::Percent] {
            for positions in [vec![], vec![0.0], vec![2.5], vec![f64::NAN], vec![1.0, 1.0]] {
                let span = scale.span(positions.iter().copied());
                assert!(span.from < span.to, "{scale:?} of {positions:?}: {span:?}");
                let ticks = scale.ticks(span, Unit::Count);
                assert!(ticks.len() >= 2, "{scale:?} of {positions:?}: {ticks:?}");
            }
        }
    }

    #[test]
    fn a_log_span_ends_on_round_figures() {
        let span = Scale::Log.span([2.4, 3.9].map(f64::log10).into_iter());
        assert!((span.from - 2f64.log10()).abs() < 1e-9);
        assert!(span.to >= 5f64.log10());
    }
}
