//! What somebody probably meant to write.

/// The known word that is closest to `word`, if one is close enough to be a slip.
fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Long words cost time squared to compare, and nobody mistypes a name of that length.
    if word.len() > 64 {
        return None;
    }
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

/// A remedy that names the likely word, or else all of them.
pub fn suggestion(word: &str, known: &[&str]) -> String {
    if let Some(word) = nearest(word, known.iter().copied()) {
        return format!("did you mean `{word}`?");
    }
    let all: Vec<String> = known.iter().map(|word| format!("`{word}`")).collect();
    format!("use one of {}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        assert_eq!(nearest("memry", ["image", "memory"]), Some("memory"));
        assert_eq!(nearest("iamge", ["image", "memory"]), Some("image"));
        assert_eq!(nearest("colour", ["image", "memory"]), None);
        assert_eq!(suggestion("x", &["image", "memory"]), "use one of `image`, `memory`");
    }
}
