//! Rights by the names that manifests, requests and tables write.

use district_protocol::rights::Rights;

/// The right of this name.
pub fn parse(name: &str) -> Option<Rights> {
    Rights::NAMES.iter().position(|known| *known == name).map(|bit| Rights(1 << bit))
}

/// The names of all rights in a set.
pub fn list(rights: Rights) -> Vec<&'static str> {
    Rights::NAMES
        .into_iter()
        .enumerate()
        .filter(|(bit, _)| rights.contains(Rights(1 << bit)))
        .map(|(_, name)| name)
        .collect()
}

/// `Option<Rights>` as a list of names, in JSON.
pub mod optional {
    use district_protocol::rights::Rights;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Writes the names.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(rights: &Option<Rights>, serializer: S) -> Result<S::Ok, S::Error> {
        rights.map(super::list).serialize(serializer)
    }

    /// Reads the names.
    ///
    /// # Errors
    /// The deserializer's, and for a name that no right has.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Rights>, D::Error> {
        let Some(names) = Option::<Vec<String>>::deserialize(deserializer)? else { return Ok(None) };
        let mut rights = Rights::NONE;
        for name in &names {
            let right = super::parse(name).ok_or_else(|| D::Error::custom(format!("unknown right {name:?}")))?;
            rights = rights.union(right);
        }
        Ok(Some(rights))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_right_has_a_name_and_back() {
        let names = list(Rights::ALL);
        assert_eq!(names, Rights::NAMES);
        let all = names.into_iter().filter_map(parse).fold(Rights::NONE, Rights::union);
        assert_eq!(all, Rights::ALL);
        assert_eq!(parse("fly"), None);
    }
}
