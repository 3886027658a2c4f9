//! Medians and percentiles of a few thousand to a million numbers.

/// The value below which `percent` of `values` lie; `values` gets sorted.
///
/// # Panics
///
/// If there is no value.
pub fn percentile(values: &mut [u64], percent: f64) -> u64 {
    assert!(!values.is_empty(), "a percentile of nothing");
    values.sort_unstable();
    let place = (values.len() as f64 * percent / 100.0).ceil() as usize;
    values[place.clamp(1, values.len()) - 1]
}

/// Lower quartile, median and upper quartile; `values` gets sorted.
///
/// # Panics
///
/// If there is no value.
pub fn quartiles(values: &mut [f64]) -> [f64; 3] {
    assert!(!values.is_empty(), "quartiles of nothing");
    values.sort_unstable_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}
