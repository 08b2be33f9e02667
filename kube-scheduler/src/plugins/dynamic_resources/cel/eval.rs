//! Evaluates a parsed expression on a device, within a budget.

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue, SelectExpr, operators as op};
use cel::parser::Expression;

use super::functions;
use super::value::{Map, Value};

/// Upstream's limit of what one evaluation may cost.
const BUDGET: u64 = 1_000_000;

/// Why there is no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The expression does not fit the values; `||` and `&&` may get over it.
    Value(String),
    /// The budget is spent.
    Cost,
}

impl Fault {
    /// No such function for these values.
    pub fn overload(function: &str) -> Self {
        Self::Value(format!("no such overload: {function}"))
    }
}

impl From<String> for Fault {
    fn from(text: String) -> Self {
        Self::Value(text)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Value(text) => f.write_str(text),
            Self::Cost => f.write_str("operation cancelled: actual cost limit exceeded"),
        }
    }
}

/// A value or why not.
pub type Outcome = Result<Value, Fault>;

/// One evaluation.
pub struct Evaluation<'a> {
    device: &'a Value,
    scope: Vec<(&'a str, Outcome)>,
    left: u64,
}

impl<'a> Evaluation<'a> {
    /// On a device.
    pub fn new(device: &'a Value) -> Self {
        Self { device, scope: Vec::new(), left: BUDGET }
    }

    /// Takes from the budget.
    pub fn spend(&mut self, cost: u64) -> Result<(), Fault> {
        self.left = self.left.checked_sub(cost).ok_or(Fault::Cost)?;
        Ok(())
    }

    /// The value of an expression.
    pub fn eval(&mut self, expression: &'a Expression) -> Outcome {
        self.spend(1)?;
        match &expression.expr {
            Expr::Literal(literal) => Ok(literal_value(literal)),
            Expr::Ident(name) => self.variable(name),
            Expr::Select(select) => self.select(select),
            Expr::Call(call) => self.call(call),
            Expr::List(list) => {
                let mut values = Vec::with_capacity(list.elements.len());
                for (at, element) in list.elements.iter().enumerate() {
                    let value = self.eval(element)?;
                    match (list.optional_indices.contains(&at), value) {
                        (true, Value::Optional(inner)) => values.extend(inner.map(|inner| (*inner).clone())),
                        (true, _) => return Err(Fault::overload("optional list element")),
                        (false, value) => values.push(value),
                    }
                }
                Ok(Value::list(values))
            }
            Expr::Map(map) => {
                let mut entries = Vec::with_capacity(map.entries.len());
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { return Err(Fault::overload("map entry")) };
                    let (key, value) = (self.eval(&entry.key)?, self.eval(&entry.value)?);
                    match (entry.optional, value) {
                        (true, Value::Optional(inner)) => {
                            entries.extend(inner.map(|inner| (key, (*inner).clone())));
                        }
                        (_, value) => entries.push((key, value)),
                    }
                }
                Ok(Value::map(entries))
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Struct(_) | Expr::Unspecified => Err(Fault::Value("unsupported expression".into())),
        }
    }

    fn variable(&self, name: &str) -> Outcome {
        match self.scope.iter().rev().find(|(known, _)| *known == name) {
            Some((_, value)) => value.clone(),
            None if name == "device" => Ok(self.device.clone()),
            None => functions::type_named(name)
                .map(Value::Type)
                .ok_or_else(|| format!("undeclared reference to '{name}'").into()),
        }
    }

    fn select(&mut self, select: &'a SelectExpr) -> Outcome {
        let operand = self.eval(&select.operand)?;
        let key = Value::text(&select.field);
        match (&operand, select.test) {
            (Value::Map(map), true) => Ok(Value::Bool(map.get(&key).is_some())),
            (Value::Optional(inner), _) => Ok(optional_member(inner.as_deref(), &key)),
            (_, false) => member(&operand, &key),
            _ => Err(Fault::overload("has")),
        }
    }

    fn call(&mut self, call: &'a CallExpr) -> Outcome {
        let name = call.func_name.as_str();
        match (name, call.args.as_slice()) {
            (op::LOGICAL_AND, [left, right]) => self.logical(left, right, false),
            (op::LOGICAL_OR, [left, right]) => self.logical(left, right, true),
            (op::CONDITIONAL, [condition, yes, no]) => match self.eval(condition)? {
                Value::Bool(true) => self.eval(yes),
                Value::Bool(false) => self.eval(no),
                _ => Err(Fault::overload(op::CONDITIONAL)),
            },
            (op::NOT_STRICTLY_FALSE, [argument]) => match self.eval(argument) {
                Err(Fault::Cost) => Err(Fault::Cost),
                Ok(Value::Bool(false)) => Ok(Value::Bool(false)),
                _ => Ok(Value::Bool(true)),
            },
            ("bind", [variable, value, result]) if is_cel(call.target.as_deref()) => {
                let Expr::Ident(variable) = &variable.expr else { return Err(Fault::overload("cel.bind")) };
                let value = self.eval(value);
                self.scope.push((variable, value));
                let result = self.eval(result);
                self.scope.pop();
                result
            }
            (_, arguments) => {
                let target = call.target.as_ref().map(|target| self.eval(target)).transpose()?;
                let mut values = Vec::with_capacity(arguments.len() + 1);
                let method = target.is_some();
                values.extend(target);
                for argument in arguments {
                    values.push(self.eval(argument)?);
                }
                self.spend(values.iter().map(Value::weight).sum())?;
                functions::apply(name, method, &values)
            }
        }
    }

    /// `&&` (deciding false) or `||` (deciding true): either side may decide, whatever is wrong with the other.
    fn logical(&mut self, left: &'a Expression, right: &'a Expression, decides: bool) -> Outcome {
        let left = match self.eval(left) {
            Ok(Value::Bool(value)) if value == decides => return Ok(Value::Bool(decides)),
            Err(Fault::Cost) => return Err(Fault::Cost),
            other => other,
        };
        match (left, self.eval(right)) {
            (_, Err(Fault::Cost)) => Err(Fault::Cost),
            (_, Ok(Value::Bool(value))) if value == decides => Ok(Value::Bool(decides)),
            (Err(fault), _) | (Ok(Value::Bool(_)), Err(fault)) => Err(fault),
            (Ok(Value::Bool(_)), Ok(Value::Bool(_))) => Ok(Value::Bool(!decides)),
            _ => Err(Fault::overload(if decides { op::LOGICAL_OR } else { op::LOGICAL_AND })),
        }
    }

    fn comprehension(&mut self, fold: &'a ComprehensionExpr) -> Outcome {
        // With one variable, a list goes by its values and a map by its keys.
        let (items, by_key): (Vec<(Value, Value)>, bool) = match self.eval(&fold.iter_range)? {
            Value::List(list) => ((0i64..).map(Value::Int).zip(list.iter().cloned()).collect(), false),
            Value::Map(map) => (map.entries.clone(), true),
            _ => return Err(Fault::overload("comprehension")),
        };
        let initial = self.eval(&fold.accu_init);
        let accumulator = self.scope.len();
        self.scope.push((&fold.accu_var, initial));
        let result = self.fold(fold, items, by_key, accumulator);
        self.scope.truncate(accumulator);
        result
    }

    fn fold(&mut self, fold: &'a ComprehensionExpr, items: Vec<(Value, Value)>, by_key: bool, at: usize) -> Outcome {
        for (key, value) in items {
            match self.eval(&fold.loop_cond)? {
                Value::Bool(true) => {}
                _ => break,
            }
            let depth = self.scope.len();
            match &fold.iter_var2 {
                Some(second) => {
                    self.scope.push((&fold.iter_var, Ok(key)));
                    self.scope.push((second, Ok(value)));
                }
                None => self.scope.push((&fold.iter_var, Ok(if by_key { key } else { value }))),
            }
            let step = self.eval(&fold.loop_step);
            self.scope.truncate(depth);
            if step == Err(Fault::Cost) {
                return Err(Fault::Cost);
            }
            self.scope[at].1 = step;
        }
        self.eval(&fold.result)
    }
}

fn is_cel(target: Option<&Expression>) -> bool {
    matches!(target.map(|target| &target.expr), Some(Expr::Ident(name)) if name == "cel")
}

fn literal_value(literal: &LiteralValue) -> Value {
    match literal {
        LiteralValue::Boolean(value) => Value::Bool(*value.inner()),
        LiteralValue::Bytes(value) => Value::Bytes(value.inner().into()),
        LiteralValue::Double(value) => Value::Double(*value.inner()),
        LiteralValue::Int(value) => Value::Int(*value.inner()),
        LiteralValue::Null => Value::Null,
        LiteralValue::String(value) => Value::text(value.inner()),
        LiteralValue::UInt(value) => Value::Uint(*value.inner()),
    }
}

fn key_text(key: &Value) -> String {
    match key {
        Value::String(text) => text.to_string(),
        Value::Int(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

/// A member of a map or list by key or index.
pub fn member(of: &Value, key: &Value) -> Outcome {
    match (of, key) {
        (Value::Map(map), key) => map.get(key).cloned().ok_or_else(|| format!("no such key: {}", key_text(key)).into()),
        (Value::List(list), Value::Int(at)) => usize::try_from(*at)
            .ok()
            .and_then(|at| list.get(at).cloned())
            .ok_or_else(|| format!("index out of bounds: {at}").into()),
        (Value::Optional(inner), key) => Ok(optional_member(inner.as_deref(), key)),
        _ => Err(Fault::overload(op::INDEX)),
    }
}

/// `x.?key` and `x[?key]`.
pub fn optional_member(of: Option<&Value>, key: &Value) -> Value {
    let of = match of {
        Some(Value::Optional(inner)) => inner.as_deref(),
        other => other,
    };
    let found = match of {
        Some(Value::Map(map)) => Map::get(map, key).cloned(),
        Some(list @ Value::List(_)) => member(list, key).ok(),
        _ => None,
    };
    Value::Optional(found.map(std::sync::Arc::new))
}
