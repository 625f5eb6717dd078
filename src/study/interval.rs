//! How sure a share is.

use std::fmt;

/// A figure with the range that it lies in with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Interval {
    /// The figure itself.
    pub mean: f64,
    /// The range's lower end.
    pub low: f64,
    /// The range's upper end.
    pub high: f64,
}

impl Interval {
    /// Of `successes` in `trials`: Wilson's score interval (1927), which holds near 0 and 1 too. No trial says nothing.
    pub(super) fn wilson(successes: f64, trials: f64) -> Self {
        if trials <= 0.0 {
            return Self {
                mean: 0.0,
                low: 0.0,
                high: 1.0,
            };
        }
        let (p, z2) = (successes / trials, NORMAL * NORMAL);
        let centre = (p + z2 / (2.0 * trials)) / (1.0 + z2 / trials);
        let spread = (p * (1.0 - p) / trials + z2 / (4.0 * trials * trials)).sqrt();
        let half = NORMAL * spread / (1.0 + z2 / trials);
        // Rounding: at 0 and at 1 the range ends there.
        let (low, high) = ((centre - half).clamp(0.0, p), (centre + half).clamp(p, 1.0));
        Self { mean: p, low, high }
    }

    /// Of the figures of folds that share training pictures, r times k of them: Nadeau and Bengio's corrected variance
    /// (2003, "Inference for the Generalization Error"), (1/(r·k) + 1/(k − 1))·s².
    pub(super) fn of_folds(figures: &[f64], k: usize) -> Self {
        let n = figures.len() as f64;
        let mean = figures.iter().sum::<f64>() / n;
        let squares: f64 = figures.iter().map(|x| (x - mean).powi(2)).sum();
        let variance = (1.0 / n + 1.0 / (k as f64 - 1.0)) * squares / (n - 1.0);
        let half = student(figures.len() - 1) * variance.sqrt();
        Self {
            mean,
            low: (mean - half).max(0.0),
            high: (mean + half).min(1.0),
        }
    }

    /// The wider of two ranges, with this mean.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            mean: self.mean,
            low: self.low.min(other.low),
            high: self.high.max(other.high),
        }
    }

    /// Whether a figure lies in the range.
    pub fn contains(&self, figure: f64) -> bool {
        (self.low..=self.high).contains(&figure)
    }
}

impl fmt::Display for Interval {
    /// Such as `96.8 % (95.1 to 98.0 %)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [mean, low, high] = [self.mean, self.low, self.high].map(|share| 100.0 * share);
        write!(f, "{mean:.1} % ({low:.1} to {high:.1} %)")
    }
}

/// 97.5 % of a normal variable is below.
const NORMAL: f64 = 1.959_963_984_540_054;

/// 97.5 % of Student's t is below: a table, then Cornish and Fisher's expansion, right to a hundredth.
fn student(degrees: usize) -> f64 {
    const FEW: [f64; 4] = [f64::INFINITY, 12.706, 4.303, 3.182];
    if let Some(t) = FEW.get(degrees) {
        return *t;
    }
    let (z, v) = (NORMAL, degrees as f64);
    z + (z.powi(3) + z) / (4.0 * v)
        + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * v * v)
        + (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / (384.0 * v.powi(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_tables() {
        // Student's 97.5 % points: any table.
        for (degrees, t) in [(1, 12.706), (4, 2.776), (9, 2.262), (30, 2.042)] {
            assert!((student(degrees) - t).abs() < 0.01, "{degrees}");
        }
        // statsmodels' proportion_confint(9, 10, method="wilson").
        let share = Interval::wilson(9.0, 10.0);
        assert!((share.low - 0.595_85).abs() < 1e-4 && (share.high - 0.982_12).abs() < 1e-4);
        assert_eq!(Interval::wilson(5.0, 5.0).high, 1.0);
        assert_eq!(Interval::wilson(0.0, 5.0).low, 0.0);
        let folds = Interval::of_folds(&[0.8, 0.9, 0.85, 0.95, 0.9], 5);
        assert!((folds.mean - 0.88).abs() < 1e-12 && folds.contains(0.88));
    }
}
