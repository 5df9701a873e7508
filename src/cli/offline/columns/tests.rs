use arrow_array::{
    BinaryArray, Date32Array, Decimal128Array, DictionaryArray, FixedSizeBinaryArray, Float32Array, Float64Array,
    Int8Array, Int64Array, LargeStringArray, NullArray, StringArray, StringViewArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray, UInt64Array,
    builder::{
        BinaryBuilder, BooleanBuilder, FixedSizeListBuilder, Float64Builder, Int64Builder, LargeListBuilder,
        ListBuilder, StringBuilder, TimestampMicrosecondBuilder,
    },
    types::Int32Type as DictionaryKey,
};

use super::*;

fn array(array: impl Array + 'static) -> ArrayRef {
    Arc::new(array)
}

fn values(array: &ArrayRef, kind: FeatureType) -> Result<Vec<Value>, Problem> {
    let column = Column::new(array, kind)?;
    Ok((0..array.len()).map(|row| column.value(row)).collect())
}

fn problem(array: &ArrayRef, kind: FeatureType) -> (Option<usize>, String) {
    let problem = values(array, kind).unwrap_err();
    (problem.row, problem.words)
}

#[test]
fn text_comes_in_every_arrow_form() {
    let text = |text: &str| Value::String(text.into());
    let expected = vec![text("a"), Value::Null, text("é")];
    let words = || [Some("a"), None, Some("é")].into_iter();
    let dictionary: DictionaryArray<DictionaryKey> = words().collect();
    for array in [
        array(words().collect::<StringArray>()),
        array(words().collect::<LargeStringArray>()),
        array(words().collect::<StringViewArray>()),
        array(dictionary),
    ] {
        assert_eq!(values(&array, FeatureType::String).unwrap(), expected, "{}", array.data_type());
    }
    let nothing = array(NullArray::new(2));
    for kind in FeatureType::ALL {
        let null = if *kind == FeatureType::UnixTimestamp { Value::UnixTimestamp(i64::MIN) } else { Value::Null };
        assert_eq!(values(&nothing, *kind).unwrap(), [null.clone(), null], "{kind}");
    }
    let (row, words) = problem(&array(Int64Array::from(vec![1])), FeatureType::String);
    assert_eq!((row, words.as_str()), (None, "is Int64, declared STRING; allowed: string"));
}

#[test]
fn bytes_come_in_every_arrow_form() {
    let bytes = |bytes: &'static [u8]| Value::Bytes(Bytes::from_static(bytes));
    let binary = array(BinaryArray::from_opt_vec(vec![Some(b"\x00\xff".as_slice()), None, Some(b"")]));
    assert_eq!(values(&binary, FeatureType::Bytes).unwrap(), [bytes(b"\x00\xff"), Value::Null, bytes(b"")]);
    let fixed = FixedSizeBinaryArray::try_from_iter([b"ab", b"cd"].into_iter()).unwrap();
    assert_eq!(values(&array(fixed), FeatureType::Bytes).unwrap(), [bytes(b"ab"), bytes(b"cd")]);
    assert!(problem(&array(StringArray::from(vec!["a"])), FeatureType::Bytes).1.contains("allowed: binary"));
}

#[test]
fn integers_are_exact_or_refused() {
    let int64 = FeatureType::Int64;
    let longs = array(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)]));
    assert_eq!(values(&longs, int64).unwrap(), [Value::Int64(i64::MIN), Value::Null, Value::Int64(i64::MAX)]);
    assert_eq!(problem(&longs, FeatureType::Int32), (Some(0), "the number does not fit INT32".into()));
    let unsigned = array(UInt64Array::from(vec![1, u64::MAX]));
    assert_eq!(problem(&unsigned, int64), (Some(1), "the number does not fit INT64".into()));
    let bytes = array(Int8Array::from(vec![-1, 2]));
    assert_eq!(values(&bytes, FeatureType::Int32).unwrap(), [Value::Int32(-1), Value::Int32(2)]);

    // What pandas makes of integers with a null among them.
    let doubles = array(Float64Array::from(vec![Some(3.0), None, Some(f64::NAN), Some(-9_007_199_254_740_991.0)]));
    let exact = [Value::Int64(3), Value::Null, Value::Null, Value::Int64(-9_007_199_254_740_991)];
    assert_eq!(values(&doubles, int64).unwrap(), exact);
    let (row, words) = problem(&array(Float64Array::from(vec![1.0, 9_007_199_254_740_993.0])), int64);
    assert!(row == Some(1) && words.contains("below 2^53"), "{words}");
    let (row, words) = problem(&array(Float64Array::from(vec![1.0, 1.5])), int64);
    assert!(row == Some(1) && words.contains("1.5 is not a whole number"), "{words}");
    assert!(problem(&array(Float64Array::from(vec![f64::INFINITY])), int64).0.is_some());
    let over = array(Float64Array::from(vec![3e9]));
    assert_eq!(problem(&over, FeatureType::Int32), (Some(0), "the number does not fit INT32".into()));

    let decimal = |scale| array(Decimal128Array::from(vec![123]).with_precision_and_scale(38, scale).unwrap());
    assert_eq!(values(&decimal(0), int64).unwrap(), [Value::Int64(123)]);
    assert!(problem(&decimal(2), int64).1.contains("declared INT64"));
    assert_eq!(values(&decimal(2), FeatureType::Double).unwrap(), [Value::Double(1.23)]);
    assert!(problem(&array(BooleanArray::from(vec![true])), int64).1.contains("is Boolean, declared INT64"));
}

#[test]
fn floats_are_rounded_and_nan_is_null() {
    let doubles = array(Float64Array::from(vec![Some(0.1), None, Some(f64::NAN), Some(f64::INFINITY)]));
    let inf = f32::INFINITY;
    assert_eq!(
        values(&doubles, FeatureType::Float).unwrap(),
        [Value::Float(0.1), Value::Null, Value::Null, Value::Float(inf)]
    );
    assert_eq!(values(&doubles, FeatureType::Double).unwrap()[0], Value::Double(0.1));
    let over = array(Float64Array::from(vec![1e300]));
    assert_eq!(problem(&over, FeatureType::Float).0, Some(0));
    let floats = array(Float32Array::from(vec![0.5]));
    assert_eq!(values(&floats, FeatureType::Double).unwrap(), [Value::Double(0.5)]);
    assert_eq!(values(&array(Int64Array::from(vec![7])), FeatureType::Float).unwrap(), [Value::Float(7.0)]);
    assert!(problem(&array(StringArray::from(vec!["1"])), FeatureType::Double).1.contains("is Utf8, declared DOUBLE"));
}

#[test]
fn booleans_are_booleans() {
    let booleans = array(BooleanArray::from(vec![Some(true), None, Some(false)]));
    let expected = [Value::Bool(true), Value::Null, Value::Bool(false)];
    assert_eq!(values(&booleans, FeatureType::Bool).unwrap(), expected);
    assert!(problem(&array(Int64Array::from(vec![1])), FeatureType::Bool).1.contains("allowed: booleans"));
}

#[test]
fn times_of_every_unit_are_seconds() {
    let kind = FeatureType::UnixTimestamp;
    let at = 1_767_323_045;
    let zoned = TimestampMicrosecondArray::from(vec![at * 1_000_000 + 999_999]).with_timezone("Europe/Berlin");
    for array in [
        array(TimestampSecondArray::from(vec![at])),
        array(TimestampMillisecondArray::from(vec![at * 1_000 + 1])),
        array(zoned),
        array(TimestampNanosecondArray::from(vec![at * 1_000_000_000 + 1])),
        array(Int64Array::from(vec![at])),
    ] {
        assert_eq!(values(&array, kind).unwrap(), [Value::UnixTimestamp(at)], "{}", array.data_type());
    }
    let days = array(Date32Array::from(vec![Some(20_000), None]));
    assert_eq!(values(&days, kind).unwrap(), [Value::UnixTimestamp(20_000 * 86_400), Value::UnixTimestamp(i64::MIN)]);
    let early = array(TimestampMillisecondArray::from(vec![-1_500]));
    assert_eq!(values(&early, kind).unwrap(), [Value::UnixTimestamp(-2)]);
    assert!(problem(&array(StringArray::from(vec!["2026"])), kind).1.contains("allowed: timestamps"));

    let nanos = |array: &ArrayRef| nanoseconds(array).map(|times| times.value(0));
    assert_eq!(nanos(&array(TimestampSecondArray::from(vec![at]))), Ok(at * 1_000_000_000));
    assert_eq!(nanos(&array(TimestampMicrosecondArray::from(vec![-1]))), Ok(-1_000));
    assert_eq!(nanos(&days), Ok(20_000 * 86_400 * 1_000_000_000));
    assert!(nanos(&array(TimestampSecondArray::from(vec![i64::MAX]))).unwrap_err().words.contains("out of range"));
    assert!(nanos(&array(Int64Array::from(vec![1]))).unwrap_err().words.contains("is Int64; allowed: timestamps"));
}

#[test]
fn lists_of_every_element_and_form() {
    let mut floats = ListBuilder::new(Float64Builder::new());
    floats.append_value([Some(0.5), Some(f64::NAN), None]);
    floats.append_null();
    floats.append_value([]);
    let floats = array(floats.finish());
    let Value::FloatList(first) = values(&floats, FeatureType::FloatList).unwrap()[0].clone() else { panic!() };
    assert!(first[0] == 0.5 && first[1].is_nan() && first[2].is_nan() && first.len() == 3);
    assert_eq!(values(&floats, FeatureType::DoubleList).unwrap()[1..], [Value::Null, Value::DoubleList([].into())]);
    let sliced = floats.slice(1, 2);
    assert_eq!(values(&sliced, FeatureType::DoubleList).unwrap(), [Value::Null, Value::DoubleList([].into())]);

    let mut ints = LargeListBuilder::new(Int64Builder::new());
    ints.append_value([Some(1), None]);
    let ints = array(ints.finish());
    assert_eq!(values(&ints, FeatureType::Int64List).unwrap(), [Value::Int64List([1, 0].into())]);
    assert_eq!(values(&ints, FeatureType::Int32List).unwrap(), [Value::Int32List([1, 0].into())]);
    assert_eq!(
        values(&ints, FeatureType::UnixTimestampList).unwrap(),
        [Value::UnixTimestampList([1, i64::MIN].into())]
    );

    let mut fixed = FixedSizeListBuilder::new(Int64Builder::new(), 2);
    fixed.values().append_slice(&[1, 2, 3, 4]);
    fixed.append(true);
    fixed.append(true);
    let fixed = values(&array(fixed.finish()), FeatureType::Int64List).unwrap();
    assert_eq!(fixed, [Value::Int64List([1, 2].into()), Value::Int64List([3, 4].into())]);

    let mut words = ListBuilder::new(StringBuilder::new());
    words.append_value([Some("a"), None, Some("")]);
    let words = values(&array(words.finish()), FeatureType::StringList).unwrap();
    assert_eq!(words, [Value::StringList(["a".into(), "".into(), "".into()].into())]);

    let mut bytes = ListBuilder::new(BinaryBuilder::new());
    bytes.append_value([Some(b"\xff")]);
    let bytes = values(&array(bytes.finish()), FeatureType::BytesList).unwrap();
    assert_eq!(bytes, [Value::BytesList([Bytes::from_static(b"\xff")].into())]);

    let mut booleans = ListBuilder::new(BooleanBuilder::new());
    booleans.append_value([Some(true), None, Some(false)]);
    let booleans = values(&array(booleans.finish()), FeatureType::BoolList).unwrap();
    assert_eq!(booleans, [Value::BoolList([true, false, false].into())]);

    let mut times = ListBuilder::new(TimestampMicrosecondBuilder::new());
    times.append_value([Some(5_000_000)]);
    let times = values(&array(times.finish()), FeatureType::UnixTimestampList).unwrap();
    assert_eq!(times, [Value::UnixTimestampList([5].into())]);
}

#[test]
fn a_bad_element_names_the_row_of_its_list() {
    let mut lists = ListBuilder::new(Int64Builder::new());
    lists.append_value([Some(1), Some(2)]);
    lists.append_value([]);
    lists.append_value([Some(3), Some(i64::MAX)]);
    let lists = array(lists.finish());
    assert_eq!(problem(&lists, FeatureType::Int32List), (Some(2), "in a list: the number does not fit INT32".into()));
    assert!(problem(&lists, FeatureType::StringList).1.starts_with("in a list: is Int64, declared STRING"));
    let (row, words) = problem(&array(Int64Array::from(vec![1])), FeatureType::Int64List);
    assert!(row.is_none() && words.starts_with("is Int64; allowed: lists of integers"), "{words}");
}
