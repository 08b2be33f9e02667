//! CEL selectors over devices.
//!
//! The `cel` crate parses. Evaluation is ours: upstream bounds what an expression may cost, and looks attributes of unknown
//! domains up in an empty map; the crate's interpreter knows neither.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cel::common::ast::{EntryExpr, Expr, LiteralValue};
use cel::parser::{Expression, Parser};
use common::meta::Quantity;
use k8s_openapi::api::resource::v1::{Device, DeviceAttribute};
use parking_lot::Mutex;

pub mod eval;
pub mod functions;
pub mod value;

#[cfg(test)]
mod tests;

use self::eval::Evaluation;
use self::functions::Kind;
use self::value::{Map, Value};

/// Compiled expressions that are kept.
const KEPT: usize = 256;
/// The API's limit of an expression's length.
const LONGEST: usize = 10 * 1024;
/// Room for the parser, as deep as the longest expression may be.
const STACK: usize = 256 << 20;
/// How deep a program may be: evaluation recurses on the scheduling thread.
const DEEPEST: usize = 100;
/// The members of `device`.
const FIELDS: [&str; 4] = ["driver", "allowMultipleAllocations", "attributes", "capacity"];

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    /// Unique in this process.
    pub id: u64,
    root: Expression,
}

/// A compiled expression, or what is wrong with it.
pub type Compiled = Result<Arc<Program>, Arc<str>>;

impl Program {
    /// Parses and checks an expression.
    pub fn compile(expression: &str) -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let parsed = Parser::new().enable_optional_syntax(true).parse(expression);
        let root = parsed.map_err(|errors| format!("compilation failed: {errors}"))?;
        let kind =
            Check::default().kind(&root).map_err(|error| format!("compilation failed: ERROR: <input>: {error}"))?;
        match kind {
            Kind::Bool | Kind::Unknown => Ok(Self { id: NEXT.fetch_add(1, Ordering::Relaxed), root }),
            Kind::Other(name) => Err(format!("must evaluate to bool or the unknown type, not {name}")),
        }
    }

    /// Whether the expression selects a device (in the form of [`input`]).
    pub fn matches(&self, device: &Value) -> Result<bool, String> {
        match Evaluation::new(device).eval(&self.root).map_err(|fault| fault.to_string())? {
            Value::Bool(answer) => Ok(answer),
            other => Err(format!("CEL result of type {} could not be converted to bool", other.type_name())),
        }
    }
}

/// Compiled expressions by text; each is compiled once.
#[derive(Default)]
pub struct Programs(Mutex<HashMap<String, Compiled>>);

impl Programs {
    /// The program of an expression.
    pub fn get(&self, expression: &str) -> Compiled {
        let mut known = self.0.lock();
        if let Some(found) = known.get(expression) {
            return found.clone();
        }
        if known.len() >= KEPT {
            known.clear();
        }
        let compiled = compile_apart(expression).map(Arc::new).map_err(Arc::from);
        known.insert(expression.to_owned(), compiled.clone());
        compiled
    }
}

/// Compiles in a thread of its own: the parser goes as deep as the expression does, which is anybody's.
fn compile_apart(expression: &str) -> Result<Program, String> {
    if expression.len() > LONGEST {
        return Err(format!("compilation failed: expression is longer than {LONGEST} bytes"));
    }
    let text = expression.to_owned();
    let thread =
        std::thread::Builder::new().name("cel".into()).stack_size(STACK).spawn(move || Program::compile(&text));
    let compiled = thread.map_err(|error| format!("compilation failed: {error}"))?.join();
    compiled.unwrap_or_else(|_| Err("compilation failed: the parser gave up".into()))
}

/// What can be told of an expression without values: that its names exist, and what it surely yields.
#[derive(Default)]
struct Check<'a> {
    variables: Vec<&'a str>,
    depth: usize,
}

impl<'a> Check<'a> {
    fn kind(&mut self, expression: &'a Expression) -> Result<Kind, String> {
        if self.depth == DEEPEST {
            return Err("expression is nested too deeply".into());
        }
        self.depth += 1;
        let kind = self.kind_here(expression);
        self.depth -= 1;
        kind
    }

    fn kind_here(&mut self, expression: &'a Expression) -> Result<Kind, String> {
        Ok(match &expression.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(_) => Kind::Bool,
                LiteralValue::Bytes(_) => Kind::Other("bytes"),
                LiteralValue::Double(_) => Kind::Other("double"),
                LiteralValue::Int(_) => Kind::Other("int"),
                LiteralValue::Null => Kind::Other("null_type"),
                LiteralValue::String(_) => Kind::Other("string"),
                LiteralValue::UInt(_) => Kind::Other("uint"),
            },
            Expr::Ident(name) => self.name(name)?,
            Expr::Select(select) => {
                self.kind(&select.operand)?;
                let of_device = matches!(&select.operand.expr, Expr::Ident(name) if name == "device");
                match (of_device && !self.variables.contains(&"device"), select.field.as_str()) {
                    (true, field) if !FIELDS.contains(&field) => return Err(format!("undefined field '{field}'")),
                    _ if select.test => Kind::Bool,
                    (true, "driver") => Kind::Other("string"),
                    (true, "allowMultipleAllocations") => Kind::Bool,
                    (true, _) => Kind::Other("map"),
                    _ => Kind::Unknown,
                }
            }
            Expr::Call(call) => return self.call(call),
            Expr::List(list) => {
                list.elements.iter().try_for_each(|element| self.kind(element).map(drop))?;
                Kind::Other("list")
            }
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.kind(&entry.key)?;
                        self.kind(&entry.value)?;
                    }
                }
                Kind::Other("map")
            }
            Expr::Comprehension(fold) => {
                self.kind(&fold.iter_range)?;
                self.kind(&fold.accu_init)?;
                let depth = self.variables.len();
                self.variables.extend([fold.accu_var.as_str(), fold.iter_var.as_str()]);
                self.variables.extend(fold.iter_var2.as_deref());
                let inside = [&fold.loop_cond, &fold.loop_step, &fold.result];
                inside.into_iter().try_for_each(|part| self.kind(part).map(drop))?;
                self.variables.truncate(depth);
                // `all` and `exists` yield their accumulator, a bool; `map` and `filter` a list.
                match (&fold.result.expr, &fold.accu_init.expr) {
                    (Expr::Ident(_), Expr::List(_)) => Kind::Other("list"),
                    _ => Kind::Bool,
                }
            }
            Expr::Struct(found) => {
                return Err(format!("undeclared reference to '{}' (in container '')", found.type_name));
            }
            Expr::Unspecified => return Err("empty expression".into()),
        })
    }

    fn name(&self, name: &str) -> Result<Kind, String> {
        match name {
            known if self.variables.contains(&known) => Ok(Kind::Unknown),
            "device" => Ok(Kind::Other("kubernetes.DRADevice")),
            known if functions::type_named(known).is_some() => Ok(Kind::Other("type")),
            "optional" => Ok(Kind::Unknown),
            unknown => Err(format!("undeclared reference to '{unknown}' (in container '')")),
        }
    }

    fn call(&mut self, call: &'a cel::common::ast::CallExpr) -> Result<Kind, String> {
        let kind = functions::kind_of(&call.func_name)
            .ok_or_else(|| format!("undeclared reference to '{}' (in container '')", call.func_name))?;
        let target = call.target.as_deref();
        let is_cel = matches!(target.map(|target| &target.expr), Some(Expr::Ident(name)) if name == "cel");
        if let ("bind", true, [variable, value, result]) = (call.func_name.as_str(), is_cel, call.args.as_slice()) {
            let Expr::Ident(variable) = &variable.expr else {
                return Err("cel.bind() variable names must be simple identifiers".into());
            };
            self.kind(value)?;
            self.variables.push(variable);
            let result = self.kind(result);
            self.variables.pop();
            return result;
        }
        if let Some(target) = target {
            self.kind(target)?;
        }
        let mut kinds = Vec::with_capacity(call.args.len());
        for argument in &call.args {
            kinds.push(self.kind(argument)?);
        }
        Ok(match (call.func_name.as_str(), kinds.as_slice()) {
            (cel::common::ast::operators::CONDITIONAL, [_, yes, no]) if yes == no => *yes,
            _ => kind,
        })
    }
}

/// The attribute as a value.
fn attribute(attribute: &DeviceAttribute) -> Result<Value, String> {
    match attribute {
        DeviceAttribute { int: Some(value), .. } => Ok(Value::Int(*value)),
        DeviceAttribute { bool: Some(value), .. } => Ok(Value::Bool(*value)),
        DeviceAttribute { string: Some(value), .. } => Ok(Value::text(value)),
        DeviceAttribute { version: Some(value), .. } => semver::Version::parse(value)
            .map(|version| Value::Semver(Arc::new(version)))
            .map_err(|error| format!("parse semantic version: {error}")),
        _ => Err("unsupported attribute value".into()),
    }
}

/// Splits a qualified name; names without a domain belong to the driver.
fn qualified<'a>(name: &'a str, driver: &'a str) -> (&'a str, &'a str) {
    name.split_once('/').unwrap_or((driver, name))
}

/// Values by domain and name. An unknown domain is empty.
fn by_domain<'a>(driver: &'a str, values: impl Iterator<Item = (&'a String, Value)>) -> Value {
    let mut domains: BTreeMap<&str, Vec<(Value, Value)>> = BTreeMap::new();
    for (name, value) in values {
        let (domain, id) = qualified(name, driver);
        domains.entry(domain).or_default().push((Value::text(id), value));
    }
    let entries = domains.into_iter().map(|(domain, values)| (Value::text(domain), Value::map(values))).collect();
    Value::Map(Arc::new(Map { entries, default: Some(Value::map(Vec::new())) }))
}

/// A device as expressions see it.
pub fn input(driver: &str, device: &Device, multiple: bool) -> Result<Value, String> {
    let mut attributes = Vec::new();
    for (name, given) in device.attributes.iter().flatten() {
        attributes.push((name, attribute(given).map_err(|error| format!("attribute {name}: {error}"))?));
    }
    let capacity =
        device.capacity.iter().flatten().map(|(name, capacity)| {
            (name, Value::Quantity(capacity.value.0.parse().unwrap_or_else(|_| Quantity::zero())))
        });
    let [driver_field, multiple_field, attributes_field, capacity_field] = FIELDS.map(Value::text);
    Ok(Value::map(vec![
        (driver_field, Value::text(driver)),
        (multiple_field, Value::Bool(multiple)),
        (attributes_field, by_domain(driver, attributes.into_iter())),
        (capacity_field, by_domain(driver, capacity)),
    ]))
}
