use serde_json::json;

use super::*;

fn device() -> Value {
    let device: Device = serde_json::from_value(json!({
        "name": "gpu-1",
        "attributes": {
            "model": {"string": "A100"},
            "cores": {"int": 8},
            "shared": {"bool": true},
            "firmware": {"version": "1.10.3"},
            "other.example.com/rack": {"string": "r7"},
        },
        "capacity": {"memory": {"value": "40Gi"}, "other.example.com/ports": {"value": "2"}},
    }))
    .unwrap();
    input("gpu.example.com", &device, true).unwrap()
}

fn ask(expression: &str) -> Result<bool, String> {
    Program::compile(expression)?.matches(&device())
}

#[test]
fn selectors_of_the_documentation() {
    for (expression, expected) in [
        ("device.driver == 'gpu.example.com'", true),
        ("device.driver.endsWith('.com') && device.allowMultipleAllocations", true),
        ("device.attributes['gpu.example.com'].model == 'A100'", true),
        ("device.attributes['gpu.example.com'].cores > 7", true),
        ("device.attributes['gpu.example.com'].cores == 8u", true),
        ("device.attributes['gpu.example.com'].cores == '8'", false),
        ("device.attributes['gpu.example.com'].shared", true),
        ("device.attributes['gpu.example.com'].shared || device.attributes['gpu.example.com'].absent", true),
        ("device.attributes['gpu.example.com'].absent == 1 || true", true),
        ("device.attributes['gpu.example.com'].firmware.isGreaterThan(semver('1.9.0'))", true),
        ("device.attributes['gpu.example.com'].firmware.compareTo(semver('v1.10', true)) > 0", true),
        ("device.attributes['gpu.example.com'].firmware == semver('1.10.3')", true),
        ("device.attributes['other.example.com'].rack.startsWith('r')", true),
        ("'rack' in device.attributes['other.example.com']", true),
        ("'rack' in device.attributes['nobody.example.com']", false),
        ("has(device.attributes['gpu.example.com'].model) && !has(device.attributes['x'].y)", true),
        ("device.capacity['gpu.example.com'].memory.compareTo(quantity('40Gi')) == 0", true),
        ("device.capacity['gpu.example.com'].memory.isLessThan(quantity('41Gi'))", true),
        ("device.capacity['gpu.example.com'].memory.sub(quantity('40Gi')).sign() == 0", true),
        ("device.capacity['other.example.com'].ports.asInteger() == 2", true),
        ("cel.bind(dra, device.attributes['gpu.example.com'], dra.shared && dra.cores % 2 == 0)", true),
        ("['A100', 'H100'].exists(m, m == device.attributes['gpu.example.com'].model)", true),
        ("device.attributes['gpu.example.com'].all(name, name.size() > 20)", false),
        ("device.attributes['gpu.example.com'].model in ['T4']", false),
        ("device.attributes['gpu.example.com'].model.matches('^A[0-9]+$')", true),
        ("device.attributes[?'x'].hasValue()", true),
        ("device.attributes['x'].?y.orValue('none') == 'none'", true),
        ("[1, 2, 3].map(x, x * 2).filter(x, x > 2).size() == 2", true),
        ("(device.driver == 'x' ? 1 : 2) == 2", true),
        ("type(device.attributes['gpu.example.com'].cores) == int", true),
        ("[3, 1].min() == 1 && ['a', 'b'].join('-') == 'a-b' && 'a,b'.split(',')[1] == 'b'", true),
    ] {
        assert_eq!(ask(expression), Ok(expected), "{expression}");
    }
}

#[test]
fn what_is_wrong_is_told() {
    for (expression, error) in [
        ("device.attributes['gpu.example.com'].absent == 1", "no such key: absent"),
        ("device.attributes['gpu.example.com'].model", "CEL result of type string could not be converted to bool"),
        ("device.attributes['gpu.example.com'].model > 1", "no such overload: _>_"),
        ("1 / 0 == 1", "division by zero"),
        ("device.driver", "must evaluate to bool or the unknown type, not string"),
        ("device.nope == 1", "compilation failed: ERROR: <input>: undefined field 'nope'"),
        ("frob == 1", "compilation failed: ERROR: <input>: undeclared reference to 'frob' (in container '')"),
        (
            "device.driver.frob()",
            "compilation failed: ERROR: <input>: undeclared reference to 'frob' (in container '')",
        ),
    ] {
        assert_eq!(ask(expression), Err(error.to_owned()), "{expression}");
    }
    assert!(ask("device.driver ==").unwrap_err().starts_with("compilation failed: "));
    let unsupported: Device = serde_json::from_value(json!({"name": "d", "attributes": {"a": {"ints": [1]}}})).unwrap();
    assert_eq!(input("d", &unsupported, false).unwrap_err(), "attribute a: unsupported attribute value");
}

#[test]
fn the_budget_ends_what_would_not_end() {
    let list = format!("[{}]", vec!["1"; 100].join(","));
    let nested = format!("{list}.all(a, {list}.all(b, {list}.all(c, {list}.all(d, a + b + c + d > 0))))");
    assert_eq!(ask(&nested), Err("operation cancelled: actual cost limit exceeded".to_owned()));
    assert_eq!(ask(&format!("{nested} || true")), Err("operation cancelled: actual cost limit exceeded".to_owned()));
}

#[test]
fn programs_are_compiled_once() {
    let programs = Programs::default();
    let first = programs.get("true").unwrap();
    assert!(Arc::ptr_eq(&first, &programs.get("true").unwrap()));
    assert!(programs.get("nope").is_err());
}

#[test]
fn no_expression_is_too_deep_for_the_stack() {
    let programs = Programs::default();
    let chain = |term: &str, by: &str, times: usize| vec![term; times].join(by);
    for expression in [
        format!("{}true{}", "(".repeat(4000), ")".repeat(4000)),
        format!("{} == 1", chain("1", "+", 4000)),
        chain("true", "&&", 1000),
        format!("{}true", "!".repeat(9000)),
        format!("{}{}.size() == 1", "[".repeat(3000), "]".repeat(3000)),
        format!("device{}", ".a".repeat(4000)),
        "x".repeat(LONGEST + 1),
        format!("{} == 95", chain("1", "+", 95)),
        format!("{}true{}", "[1].all(x, ".repeat(30), ")".repeat(30)),
    ] {
        // Whether it is refused or not, the process lives; what is accepted can be evaluated.
        if let Ok(program) = programs.get(&expression) {
            let _ = program.matches(&device());
        }
    }
    assert!(programs.get(&format!("{} == 1", chain("1", "+", 4000))).is_err());
    assert!(programs.get(&format!("{} == 95", chain("1", "+", 95))).unwrap().matches(&device()).unwrap());
    assert!(programs.get(&chain("device.driver != 'x'", " && ", 400)).unwrap().matches(&device()).unwrap());
}
