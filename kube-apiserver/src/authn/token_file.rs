//! Static tokens of `--token-auth-file`: lines of `token,user,uid,"group1,group2"`.

use std::{collections::HashMap, path::Path};

use super::User;

/// The tokens of one file.
pub struct TokenFile(HashMap<String, User>);

impl TokenFile {
    /// Reads the file.
    ///
    /// # Errors
    /// Names the file and the line that is wrong.
    pub fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("open {}: {e}", path.display()))?;
        Self::parse(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = HashMap::new();
        for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let fields = split_csv(line);
            let [token, name, uid, rest @ ..] = fields.as_slice() else {
                return Err(format!(
                    "token file must have at least 3 columns (token, user name, user uid), found {} in line {}",
                    fields.len(),
                    number + 1
                ));
            };
            if token.is_empty() {
                tracing::warn!(line = number + 1, "empty token has been found in token file");
                continue;
            }
            let groups =
                rest.first().map(|g| g.split(',').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect());
            let user =
                User { name: name.clone(), uid: uid.clone(), groups: groups.unwrap_or_default(), ..User::default() };
            tokens.insert(token.clone(), user);
        }
        Ok(Self(tokens))
    }

    /// The user of a token.
    #[must_use]
    pub fn authenticate(&self, token: &str) -> Option<User> {
        self.0.get(token).cloned()
    }
}

fn split_csv(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for c in line.trim().chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c => fields.last_mut().into_iter().for_each(|f| f.push(c)),
        }
    }
    fields.iter().map(|f| f.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_upstreams_format() {
        let file = TokenFile::parse("t1,alice,u1,\"a,b\"\nt2,bob,u2\n").unwrap();
        assert_eq!(file.authenticate("t1").unwrap().groups, ["a", "b"]);
        assert!(file.authenticate("t2").unwrap().groups.is_empty());
        assert!(file.authenticate("t3").is_none());
        assert!(TokenFile::parse("t1,alice").is_err());
    }
}
