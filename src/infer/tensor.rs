//! Tensor datatypes and shapes, in the Open Inference Protocol's terms.

use std::{fmt, str::FromStr};

use smallvec::SmallVec;

/// A tensor's shape, outermost dimension first.
pub type Shape = SmallVec<[i64; 4]>;

macro_rules! datatypes {
    ($($variant:ident = $name:literal, $size:expr;)+) => {
        /// An element type of the Open Inference Protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Datatype { $(#[doc = concat!("`", $name, "`")] $variant),+ }

        impl Datatype {
            /// Every datatype, in the protocol's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name on the wire.
            #[must_use]
            pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name),+ } }

            /// Bytes an element takes in raw contents; `None` for `BYTES`, whose elements carry their own length.
            #[must_use]
            pub const fn size(self) -> Option<usize> { match self { $(Self::$variant => $size),+ } }
        }

        impl FromStr for Datatype {
            type Err = UnknownDatatype;

            fn from_str(text: &str) -> Result<Self, UnknownDatatype> {
                match text { $($name => Ok(Self::$variant),)+ _ => Err(UnknownDatatype(text.into())) }
            }
        }
    };
}

datatypes! {
    Bool = "BOOL", Some(1);
    Uint8 = "UINT8", Some(1);
    Uint16 = "UINT16", Some(2);
    Uint32 = "UINT32", Some(4);
    Uint64 = "UINT64", Some(8);
    Int8 = "INT8", Some(1);
    Int16 = "INT16", Some(2);
    Int32 = "INT32", Some(4);
    Int64 = "INT64", Some(8);
    Fp16 = "FP16", Some(2);
    Fp32 = "FP32", Some(4);
    Fp64 = "FP64", Some(8);
    Bf16 = "BF16", Some(2);
    Bytes = "BYTES", None;
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A datatype the protocol does not know.
#[derive(Debug, thiserror::Error)]
#[error(
    "unknown datatype {0:?}; allowed: BOOL, UINT8, UINT16, UINT32, UINT64, INT8, INT16, INT32, INT64, FP16, FP32, FP64, BF16, BYTES"
)]
pub struct UnknownDatatype(Box<str>);
