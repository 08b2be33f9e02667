//! The text grammar of label selectors, with upstream's error texts.

use super::{Operator, Requirement};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    End,
    Comma,
    Open,
    Close,
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    In,
    NotIn,
    Identifier,
}

struct Lexed {
    token: Token,
    literal: String,
}

fn is_space(char: char) -> bool {
    matches!(char, ' ' | '\t' | '\r' | '\n')
}

fn is_special(char: char) -> bool {
    "=!(),><".contains(char)
}

/// Splits into tokens. Whether `in` is a keyword depends on what came before, so both are told apart by the parser.
fn lex(text: &str) -> Vec<Lexed> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let operators = [
            ("==", Token::DoubleEquals),
            ("!=", Token::NotEquals),
            ("=", Token::Equals),
            ("!", Token::Not),
            ("(", Token::Open),
            (")", Token::Close),
            (",", Token::Comma),
            (">", Token::Greater),
            ("<", Token::Less),
        ];
        let (token, length) = match operators.into_iter().find(|(text, _)| rest.starts_with(text)) {
            Some((text, token)) => (token, text.len()),
            None => {
                let length = rest.find(|char: char| is_special(char) || is_space(char)).unwrap_or(rest.len());
                let token = match &rest[..length] {
                    "in" => Token::In,
                    "notin" => Token::NotIn,
                    _ => Token::Identifier,
                };
                (token, length)
            }
        };
        tokens.push(Lexed { token, literal: rest[..length].to_owned() });
        rest = rest[length..].trim_start_matches(is_space);
    }
    tokens
}

struct Parser {
    tokens: Vec<Lexed>,
    next: usize,
}

pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, String> {
    let mut parser = Parser { tokens: lex(text), next: 0 };
    let mut requirements = Vec::new();
    if parser.peek().0 == Token::End {
        return Ok(requirements);
    }
    loop {
        let (token, literal) = parser.peek();
        if !matches!(token, Token::Identifier | Token::Not | Token::In | Token::NotIn) {
            return Err(format!("found '{literal}', expected: !, identifier, or 'end of string'"));
        }
        requirements.push(parser.requirement().map_err(|error| format!("unable to parse requirement: {error}"))?);
        match parser.take() {
            (Token::End, _) => return Ok(requirements),
            (Token::Comma, _) => {
                let (token, literal) = parser.peek();
                if !matches!(token, Token::Identifier | Token::Not | Token::In | Token::NotIn) {
                    return Err(format!("found '{literal}', expected: identifier after ','"));
                }
            }
            (_, literal) => return Err(format!("found '{literal}', expected: ',' or 'end of string'")),
        }
    }
}

impl Parser {
    fn peek(&self) -> (Token, String) {
        self.tokens
            .get(self.next)
            .map_or((Token::End, String::new()), |lexed| (lexed.token.clone(), lexed.literal.clone()))
    }

    fn take(&mut self) -> (Token, String) {
        let taken = self.peek();
        self.next += 1;
        taken
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let mut negated = false;
        if self.peek().0 == Token::Not {
            self.next += 1;
            negated = true;
        }
        let (token, key) = self.take();
        if !matches!(token, Token::Identifier | Token::In | Token::NotIn) {
            return Err(format!("found '{key}', expected: identifier"));
        }
        // Upstream's path of a key is nil.
        if let Some(error) = super::invalid("<nil>", &key, &crate::meta::names::label_key(&key)) {
            return Err(error);
        }
        if negated {
            return Requirement::new(&key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Requirement::new(&key, Operator::Exists, Vec::new());
        }
        let (token, literal) = self.take();
        let operator = match token {
            Token::Equals | Token::DoubleEquals | Token::In => Operator::In,
            Token::NotEquals | Token::NotIn => Operator::NotIn,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            _ => return Err(format!("found '{literal}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        let values = if matches!(token, Token::In | Token::NotIn) { self.set()? } else { vec![self.value()?] };
        Requirement::new(&key, operator, values)
    }

    /// A single value; none at all is the empty text.
    fn value(&mut self) -> Result<String, String> {
        match self.peek() {
            (Token::End | Token::Comma, _) => Ok(String::new()),
            (Token::Identifier | Token::In | Token::NotIn, literal) => {
                self.next += 1;
                Ok(literal)
            }
            (_, literal) => Err(format!("found '{literal}', expected: identifier")),
        }
    }

    /// `(a, b)`; missing values are empty texts.
    fn set(&mut self) -> Result<Vec<String>, String> {
        let (token, literal) = self.take();
        if token != Token::Open {
            return Err(format!("found '{literal}' expected: '('"));
        }
        let mut values = Vec::new();
        let mut listed = false;
        loop {
            match self.take() {
                (Token::Identifier | Token::In | Token::NotIn, value) => {
                    values.push(value);
                    match self.take() {
                        (Token::Comma, _) if self.peek().0 == Token::Close => values.push(String::new()),
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(values),
                        (_, literal) => return Err(format!("found '{literal}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => values.push(String::new()),
                (Token::Close, _) => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    return Ok(values);
                }
                (_, literal) if listed => return Err(format!("found '{literal}', expected: ',', or identifier")),
                (_, literal) => return Err(format!("found '{literal}', expected: ',', ')' or identifier")),
            }
            listed = true;
        }
    }
}
