//! 16-bit floats: IEEE binary16 (`FP16`) and bfloat16 (`BF16`), to and from `f32`.
//!
//! Rounds to nearest, ties to even; a value out of range becomes an infinity, which callers refuse where it matters.

/// The value of binary16 bits.
pub(crate) fn from_fp16(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from(bits >> 10 & 0x1f);
    let fraction = f32::from(bits & 0x3ff);
    match exponent {
        0 => sign * fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        _ => sign * (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    }
}

/// The nearest binary16 bits.
pub(crate) fn to_fp16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return sign | 0x7e00;
    }
    // 65520 and more round to infinity.
    if magnitude >= 0x477f_f000 {
        return sign | 0x7c00;
    }
    // Below the smallest normal the fraction counts in steps of 2^-24; the scaling is exact, the rounding is ours.
    if magnitude < 0x3880_0000 {
        return sign | (f32::from_bits(magnitude) * 2f32.powi(24)).round_ties_even() as u16;
    }
    let rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    sign | ((rounded >> 13) - (112 << 10)) as u16
}

/// The value of bfloat16 bits.
pub(crate) fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The nearest bfloat16 bits.
pub(crate) fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_pattern_survives_the_round_trip() {
        for bits in 0..=u16::MAX {
            let value = from_fp16(bits);
            if value.is_nan() {
                assert!(from_fp16(to_fp16(value)).is_nan());
            } else {
                assert_eq!(to_fp16(value), bits, "FP16 {value}");
            }
            let value = from_bf16(bits);
            if value.is_nan() {
                assert!(from_bf16(to_bf16(value)).is_nan());
            } else {
                assert_eq!(to_bf16(value), bits, "BF16 {value}");
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_even() {
        let one = to_fp16(1.0);
        assert_eq!(to_fp16(1.0 + 1.0 / 2048.0), one, "a tie goes to even");
        assert_eq!(to_fp16(1.0 + 3.0 / 2048.0), one + 2, "a tie goes to even");
        assert_eq!(to_fp16(65519.9), to_fp16(65504.0));
        assert_eq!(to_fp16(65520.0), 0x7c00);
        assert_eq!(to_fp16(2f32.powi(-25)), 0);
        assert_eq!(to_fp16(2f32.powi(-25) * 1.5), 1);
        assert_eq!(to_bf16(1.0 + 1.0 / 256.0), to_bf16(1.0));
        assert_eq!(to_bf16(f32::MAX), 0x7f80);
    }
}
