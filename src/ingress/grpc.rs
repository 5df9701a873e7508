//! stub
use crate::infer::*;
use bytes::Bytes;
pub(crate) enum Extent {
    Whole,
}
pub(crate) fn unframe(b: Bytes, _: Option<&str>, _: u64) -> Result<Bytes, Error> {
    Ok(b.slice(5..))
}
pub(crate) fn frame(m: &[u8]) -> Bytes {
    let mut v = vec![0];
    v.extend((m.len() as u32).to_be_bytes());
    v.extend(m);
    v.into()
}
pub(crate) fn model_of(m: &[u8], _: Extent) -> Result<Option<(String, String)>, Error> {
    Ok(Some((String::from_utf8_lossy(&m[2..2 + m[1] as usize]).into(), String::new())))
}
pub(crate) fn model_of_framed(m: &[u8]) -> Result<Option<(String, String)>, Error> {
    model_of(&m[5..], Extent::Whole)
}
