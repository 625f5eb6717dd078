//! The Keras-style table of a model: what it is made of, and what training may change.

use std::fmt;

use super::backbone::LayerInfo;

/// Widths of the columns between the rules, as Keras draws them at 88 characters plus one for the flag; the first two
/// grow with what stands in them.
const WIDTHS: [usize; 4] = [33, 26, 15, 9];

/// A model's layers with output shapes, parameter counts and freeze flags; its `Display` is the table.
///
/// ```
/// use candle_core::Device;
/// use headstart::{ConvBase, Weights};
///
/// let base = ConvBase::vgg11(Weights::Random { seed: 1 }, &Device::Cpu)?.frozen();
/// let summary = base.summary(64, 64)?;
/// assert_eq!(summary.total_parameters(), 9_220_480);
/// assert_eq!(summary.trainable_parameters(), 0);
/// println!("{summary}");
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    title: String,
    layers: Vec<LayerInfo>,
}

impl Summary {
    pub(crate) fn new(title: String, layers: Vec<LayerInfo>) -> Self {
        Self { title, layers }
    }

    /// The layers from the input on.
    pub fn layers(&self) -> &[LayerInfo] {
        &self.layers
    }

    /// How many numbers the model holds.
    pub fn total_parameters(&self) -> usize {
        self.layers.iter().map(|layer| layer.parameters).sum()
    }

    /// How many of them training may change.
    pub fn trainable_parameters(&self) -> usize {
        self.layers
            .iter()
            .filter(|layer| layer.trainable)
            .map(|layer| layer.parameters)
            .sum()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = ["Layer (type)", "Output Shape", "Param #", "Trainable"].map(str::to_owned);
        let rows: Vec<_> = self.layers.iter().map(cells).collect();
        let mut widths = WIDTHS;
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        writeln!(f, "Model: \"{}\"", self.title)?;
        rule(f, widths, ['┏', '━', '┳', '┓'])?;
        write_row(f, widths, '┃', &header)?;
        rule(f, widths, ['┡', '━', '╇', '┩'])?;
        for (index, row) in rows.iter().enumerate() {
            if index > 0 {
                rule(f, widths, ['├', '─', '┼', '┤'])?;
            }
            write_row(f, widths, '│', row)?;
        }
        rule(f, widths, ['└', '─', '┴', '┘'])?;
        let (total, trainable) = (self.total_parameters(), self.trainable_parameters());
        for (what, count) in [
            ("Total params", total),
            ("Trainable params", trainable),
            ("Non-trainable params", total - trainable),
        ] {
            writeln!(f, " {what}: {} ({})", thousands(count), bytes(count * 4))?;
        }
        Ok(())
    }
}

/// A layer's name, shape, count and flag.
fn cells(layer: &LayerInfo) -> [String; 4] {
    let flag = match (layer.parameters, layer.trainable) {
        (0, _) => "-",
        (_, true) => "Y",
        (_, false) => "N",
    };
    let output: Vec<_> = layer.output.iter().map(usize::to_string).collect();
    [
        format!("{} ({})", layer.name, layer.kind),
        format!("(None, {})", output.join(", ")),
        thousands(layer.parameters),
        flag.to_owned(),
    ]
}

fn rule(
    f: &mut fmt::Formatter<'_>,
    widths: [usize; 4],
    [left, line, cross, right]: [char; 4],
) -> fmt::Result {
    let lines = widths.map(|width| line.to_string().repeat(width + 2));
    writeln!(f, "{left}{}{right}", lines.join(&cross.to_string()))
}

fn write_row(
    f: &mut fmt::Formatter<'_>,
    [w0, w1, w2, w3]: [usize; 4],
    edge: char,
    [name, shape, count, flag]: &[String; 4],
) -> fmt::Result {
    writeln!(
        f,
        "{edge} {name:<w0$} {edge} {shape:<w1$} {edge} {count:>w2$} {edge} {flag:^w3$} {edge}"
    )
}

/// `20024384` → `20,024,384`.
fn thousands(count: usize) -> String {
    let digits = count.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Bytes in units of 1024, as Keras writes them.
fn bytes(count: usize) -> String {
    let (mut size, mut unit) = (count as f64, "B");
    for larger in ["KB", "MB", "GB"] {
        if size < 1024.0 {
            break;
        }
        (size, unit) = (size / 1024.0, larger);
    }
    format!("{size:.2} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_keras_writes_them() {
        // keras 3.15: VGG19(include_top=False).summary() ends "Total params: 20,024,384 (76.39 MB)".
        assert_eq!(thousands(20_024_384), "20,024,384");
        assert_eq!(bytes(20_024_384 * 4), "76.39 MB");
        assert_eq!(thousands(0), "0");
        assert_eq!(bytes(0), "0.00 B");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_000), "1,000");
    }
}
