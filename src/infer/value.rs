//! Feature types and values, in Feast's terms.

use std::{fmt, str::FromStr, sync::Arc};

use bytes::Bytes;

/// One stored feature value. A value that was never written is `None` where a row is read; a stored null is [`Value::Null`].
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A stored null.
    Null,
    /// `bytes_val`
    Bytes(Bytes),
    /// `string_val`, and the types that are text on the wire (json, uuid, time_uuid, decimal).
    String(Arc<str>),
    /// `int32_val`
    Int32(i32),
    /// `int64_val`
    Int64(i64),
    /// `double_val`
    Double(f64),
    /// `float_val`
    Float(f32),
    /// `bool_val`
    Bool(bool),
    /// `unix_timestamp_val`, in seconds; `i64::MIN` is Feast's null timestamp.
    UnixTimestamp(i64),
    /// `bytes_list_val`
    BytesList(Arc<[Bytes]>),
    /// `string_list_val`, and lists of the types that are text on the wire.
    StringList(Arc<[Arc<str>]>),
    /// `int32_list_val`
    Int32List(Arc<[i32]>),
    /// `int64_list_val`
    Int64List(Arc<[i64]>),
    /// `double_list_val`
    DoubleList(Arc<[f64]>),
    /// `float_list_val`
    FloatList(Arc<[f32]>),
    /// `bool_list_val`
    BoolList(Arc<[bool]>),
    /// `unix_timestamp_list_val`, in seconds.
    UnixTimestampList(Arc<[i64]>),
    /// A type that no tensor holds (map, struct, set, nested list, zoned timestamp): the serialized `feast.types.Value`.
    Opaque(Bytes),
}

impl Value {
    /// How many elements a list has; `None`: it is no list.
    #[must_use]
    pub fn length(&self) -> Option<usize> {
        match self {
            Self::BytesList(list) => Some(list.len()),
            Self::StringList(list) => Some(list.len()),
            Self::Int32List(list) => Some(list.len()),
            Self::Int64List(list) | Self::UnixTimestampList(list) => Some(list.len()),
            Self::DoubleList(list) => Some(list.len()),
            Self::FloatList(list) => Some(list.len()),
            Self::BoolList(list) => Some(list.len()),
            _ => None,
        }
    }
}

macro_rules! feature_types {
    ($($variant:ident = $name:literal;)+) => {
        /// A feature's declared type.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum FeatureType {
            $(#[doc = concat!("`", $name, "`")] $variant,)+
            /// A type that no tensor can hold (map, struct, set, nested list, zoned timestamp): rows have [`Value::Opaque`],
            /// which the feature server answers with and no model can be sent.
            Opaque,
        }

        impl FeatureType {
            /// Every type that a tensor can hold, in Feast's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Feast's name for it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ Self::Opaque => "OPAQUE" }
            }
        }

        impl FromStr for FeatureType {
            type Err = UnknownFeatureType;

            fn from_str(text: &str) -> Result<Self, UnknownFeatureType> {
                match text { $($name => Ok(Self::$variant),)+ _ => Err(UnknownFeatureType(text.into())) }
            }
        }
    };
}

feature_types! {
    Bytes = "BYTES";
    String = "STRING";
    Int32 = "INT32";
    Int64 = "INT64";
    Double = "DOUBLE";
    Float = "FLOAT";
    Bool = "BOOL";
    UnixTimestamp = "UNIX_TIMESTAMP";
    BytesList = "BYTES_LIST";
    StringList = "STRING_LIST";
    Int32List = "INT32_LIST";
    Int64List = "INT64_LIST";
    DoubleList = "DOUBLE_LIST";
    FloatList = "FLOAT_LIST";
    BoolList = "BOOL_LIST";
    UnixTimestampList = "UNIX_TIMESTAMP_LIST";
}

impl FeatureType {
    /// Whether a value is a list.
    #[must_use]
    pub const fn is_list(self) -> bool {
        self.element().is_some()
    }

    /// The type of a list's elements; `None`: it is no list.
    #[must_use]
    pub const fn element(self) -> Option<Self> {
        Some(match self {
            Self::BytesList => Self::Bytes,
            Self::StringList => Self::String,
            Self::Int32List => Self::Int32,
            Self::Int64List => Self::Int64,
            Self::DoubleList => Self::Double,
            Self::FloatList => Self::Float,
            Self::BoolList => Self::Bool,
            Self::UnixTimestampList => Self::UnixTimestamp,
            _ => return None,
        })
    }
}

impl fmt::Display for FeatureType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A feature type that no tensor can hold, or that Feast does not have.
#[derive(Debug, thiserror::Error)]
#[error(
    "unknown feature type {0:?}; allowed: BYTES, STRING, INT32, INT64, DOUBLE, FLOAT, BOOL, UNIX_TIMESTAMP and each with _LIST appended"
)]
pub struct UnknownFeatureType(Box<str>);
