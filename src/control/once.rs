//! Objects whose fields may have any name, but each name only once: for two fields of one name, JSON does not say
//! which one counts.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

struct Once<T>(PhantomData<T>);

impl<'d, T: Deserialize<'d>> Visitor<'d> for Once<T> {
    type Value = BTreeMap<String, T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'d>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((name, value)) = fields.next_entry::<String, T>()? {
            if map.contains_key(&name) {
                return Err(A::Error::custom(format_args!("the field `{name}` is given twice")));
            }
            map.insert(name, value);
        }
        Ok(map)
    }
}

/// The fields of an object.
pub(super) fn once<'d, T: Deserialize<'d>, D: Deserializer<'d>>(
    object: D,
) -> Result<BTreeMap<String, T>, D::Error> {
    object.deserialize_map(Once(PhantomData))
}

/// The same for an object that may be missing, but not null.
pub(super) fn given_once<'d, T: Deserialize<'d>, D: Deserializer<'d>>(
    object: D,
) -> Result<Option<BTreeMap<String, T>>, D::Error> {
    once(object).map(Some)
}
