//! Quantities of the Kubernetes API (`k8s.io/apimachinery/pkg/api/resource`).
//!
//! kube_quantity 0.9 is not used: it refuses `1E` and `1Ei`, and accepts `inf` and a suffix without a number.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Number of units of [`Amount`] in 1.
const NANO: i128 = 1_000_000_000;

/// Value of a quantity, in units of 10⁻⁹. Larger values saturate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(i128);

impl Amount {
    /// Value as a floating-point number: exact up to 2⁵³.
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / NANO as f64
    }

    /// True if greater than 0.
    pub const fn is_positive(self) -> bool {
        self.0 > 0
    }
}

/// Parses a quantity: a decimal number with an optional binary suffix (`Ki` to `Ei`), decimal suffix (`n` to `E`) or
/// exponent (`e3`, `E-3`). Digits below 10⁻⁹ are cut off. `None` for any other text.
pub fn amount(quantity: &Quantity) -> Option<Amount> {
    let text = quantity.0.trim();
    let (negative, text) = match text.strip_prefix('-') {
        Some(text) => (true, text),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let scale = Scale::parse(suffix)?;
    let digits = |text: &str| {
        text.bytes()
            .fold(0_i128, |all, digit| all.saturating_mul(10).saturating_add(i128::from(digit - b'0')))
    };
    // With at most 9 digits after the point, their product with the largest factor fits into i128.
    let fraction = &fraction[..fraction.len().min(9)];
    let total = scale.apply(digits(whole).saturating_mul(NANO)).saturating_add(
        scale.apply(digits(fraction).saturating_mul(NANO)) / 10_i128.pow(fraction.len() as u32),
    );
    Some(Amount(if negative { -total } else { total }))
}

/// Factor of a suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    /// A power of 1024.
    Binary(u32),
    /// A power of 10.
    Decimal(i32),
}

impl Scale {
    fn parse(suffix: &str) -> Option<Self> {
        let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter().position(|it| *it == suffix);
        if let Some(at) = binary {
            return Some(Self::Binary(at as u32 + 1));
        }
        let decimal = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"].iter().position(|it| *it == suffix);
        if let Some(at) = decimal {
            return Some(Self::Decimal((at as i32 - 3) * 3));
        }
        let exponent = suffix.strip_prefix(['e', 'E'])?;
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        exponent.parse().ok().map(Self::Decimal)
    }

    fn apply(self, value: i128) -> i128 {
        let power = |base: i128, exponent: u32| base.checked_pow(exponent).unwrap_or(i128::MAX);
        match self {
            Self::Binary(exponent) => value.saturating_mul(power(1024, exponent)),
            Self::Decimal(exponent @ 0..) => value.saturating_mul(power(10, exponent.unsigned_abs())),
            Self::Decimal(exponent) => value / power(10, exponent.unsigned_abs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<f64> {
        amount(&Quantity(text.to_owned())).map(Amount::as_f64)
    }

    #[test]
    fn amount_every_suffix_of_the_api_is_parsed() {
        for (text, value) in [
            ("0", 0.0),
            ("1500m", 1.5),
            ("2u", 2e-6),
            ("3n", 3e-9),
            ("1k", 1e3),
            ("1M", 1e6),
            ("1G", 1e9),
            ("1T", 1e12),
            ("1P", 1e15),
            ("1E", 1e18),
            ("1Ki", 1024.0),
            ("1Mi", 1_048_576.0),
            ("1Gi", 1_073_741_824.0),
            ("1Ti", 1_099_511_627_776.0),
            ("1Pi", 1_125_899_906_842_624.0),
            ("1Ei", 1_152_921_504_606_846_976.0),
            ("1e3", 1e3),
            ("1E3", 1e3),
            ("12e-1", 1.2),
            ("1e+6", 1e6),
            ("0.5Gi", 536_870_912.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("+1", 1.0),
            ("-1Ki", -1024.0),
        ] {
            assert_eq!(of(text), Some(value), "{text}");
        }
    }

    #[test]
    fn amount_other_text_is_refused() {
        for text in
            ["", "Gi", ".", "1X", "1ki", "1 Gi", "1.2.3", "e3", "1e", "1e1.5", "inf", "nan", "0x10", "1Kim"]
        {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn amount_equal_values_compare_equal_and_huge_ones_saturate() {
        let of = |text: &str| amount(&Quantity(text.to_owned()));
        assert_eq!(of("1Gi"), of("1024Mi"));
        assert!(of("1G") < of("1Gi"));
        assert!(of("1e999999999") > of("1Ei"));
        assert!(of("99999999999999999999999999999999999999999999Ei") > of("1Ei"));
        assert_eq!(of("1e-999999999").map(Amount::is_positive), Some(false));
        assert_eq!(of("1e9999999999"), None, "an exponent of more than 31 bits");
    }
}
