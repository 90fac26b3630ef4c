//! What is taken along from Monty to CPython: definitions by their source, values written down.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use monty_types::MontyObject;
use ruff_python_ast::{Expr, Parameters, Stmt};

use super::super::monty::source::names_bound_by;

/// How deep values may nest.
const DEEPEST: usize = 100;

/// The statements of earlier cells that can be run again.
#[derive(Default)]
pub(super) struct Definitions {
    statements: Vec<String>,
    /// Which of them has bound a name last; `None` if something else has, or may at any time.
    origins: BTreeMap<String, Option<usize>>,
    /// The names that functions declare `global`.
    shared: BTreeSet<String>,
}

impl Definitions {
    /// Notes what a cell has defined. Of one that did not run to its end that is unsure, but for names
    /// that nobody had bound before.
    pub(super) fn learn(&mut self, code: &str, is_whole: bool) {
        let Ok(parsed) = ruff_python_parser::parse_module(code) else { return };
        let known: BTreeSet<_> = self.origins.keys().cloned().collect();
        let mut bound = BTreeSet::new();
        for stmt in parsed.suite() {
            let own = own_name(stmt);
            let definition = range(stmt).filter(|_| is_definition(stmt)).map(|range| {
                self.statements.push(code[range].to_owned());
                self.statements.len() - 1
            });
            for name in names_bound_by(stmt) {
                let is_import = matches!(stmt, Stmt::Import(_) | Stmt::ImportFrom(_));
                let is_own = is_import || own == Some(&*name);
                if !is_own {
                    self.shared.insert(name.clone());
                }
                let is_sure = is_whole || !known.contains(&name) && bound.insert(name.clone());
                let origin = definition.filter(|_| is_own && is_sure);
                self.origins.insert(name, origin);
            }
        }
    }

    /// The code that binds the same anew, or the names for which there is none.
    pub(super) fn code(&self, bindings: &[(String, MontyObject)]) -> Result<String, Vec<String>> {
        let (mut used, mut values, mut lost) = (BTreeSet::new(), String::new(), Vec::new());
        for (name, value) in bindings {
            let origin = self.origins.get(name).copied().flatten();
            let origin = origin.filter(|_| !self.shared.contains(name));
            let mut written = String::new();
            if let Some(origin) = origin {
                used.insert(origin);
            } else if write(value, &mut written, 0).is_some() {
                values.push_str(&format!("{name} = {written}\n"));
            } else {
                lost.push(name.clone());
            }
        }
        if !lost.is_empty() {
            return Err(lost);
        }
        let mut code = String::new();
        for statement in used {
            code.push_str(&self.statements[statement]);
            code.push('\n');
        }
        Ok(code + &values)
    }
}

/// Where a definition stands in the code.
fn range(definition: &Stmt) -> Option<Range<usize>> {
    let range = match definition {
        Stmt::Import(import) => import.range,
        Stmt::ImportFrom(import) => import.range,
        Stmt::FunctionDef(function) => function.range,
        Stmt::ClassDef(class) => class.range,
        _ => return None,
    };
    Some(usize::from(range.start())..usize::from(range.end()))
}

/// The name that a statement binds by itself, and not by what is within it.
fn own_name(stmt: &Stmt) -> Option<&str> {
    match stmt {
        Stmt::FunctionDef(function) => Some(&function.name),
        Stmt::ClassDef(class) => Some(&class.name),
        _ => None,
    }
}

/// Whether it does the same whenever it is run.
fn is_definition(stmt: &Stmt) -> bool {
    match stmt {
        Stmt::Import(_) | Stmt::ImportFrom(_) => true,
        Stmt::FunctionDef(function) => {
            function.decorator_list.is_empty() && are_constant(&function.parameters)
        }
        Stmt::ClassDef(class) => {
            class.decorator_list.is_empty()
                && class.arguments.as_ref().is_none_or(|arguments| arguments.is_empty())
                && class.body.iter().all(|stmt| match stmt {
                    Stmt::FunctionDef(_) => is_definition(stmt),
                    Stmt::Pass(_) => true,
                    Stmt::Expr(expr) => is_constant(&expr.value),
                    Stmt::Assign(assign) => is_constant(&assign.value),
                    Stmt::AnnAssign(assign) => assign.value.as_deref().is_none_or(is_constant),
                    _ => false,
                })
        }
        _ => false,
    }
}

fn are_constant(parameters: &Parameters) -> bool {
    parameters.iter_non_variadic_params().all(|one| one.default().is_none_or(is_constant))
}

fn is_constant(expr: &Expr) -> bool {
    match expr {
        Expr::NumberLiteral(_)
        | Expr::StringLiteral(_)
        | Expr::BytesLiteral(_)
        | Expr::BooleanLiteral(_)
        | Expr::NoneLiteral(_)
        | Expr::EllipsisLiteral(_) => true,
        Expr::UnaryOp(operation) => is_constant(&operation.operand),
        Expr::Tuple(tuple) => tuple.elts.iter().all(is_constant),
        _ => false,
    }
}

/// Writes a value as Python, if it is one of those that can be.
fn write(value: &MontyObject, to: &mut String, depth: usize) -> Option<()> {
    let all = |to: &mut String, items: &[MontyObject]| {
        for item in items {
            write(item, to, depth + 1)?;
            to.push_str(", ");
        }
        Some(())
    };
    if depth > DEEPEST {
        return None;
    }
    match value {
        MontyObject::None
        | MontyObject::Bool(_)
        | MontyObject::Int(_)
        | MontyObject::String(_)
        | MontyObject::Bytes(_)
        | MontyObject::Ellipsis => to.push_str(&value.py_repr()),
        // In decimal there is a limit to its length.
        MontyObject::BigInt(number) => to.push_str(&format!("{number:#x}")),
        MontyObject::Float(number) if number.is_nan() => to.push_str("(1e999 - 1e999)"),
        MontyObject::Float(number) if number.is_infinite() => {
            to.push_str(if *number > 0.0 { "1e999" } else { "-1e999" });
        }
        MontyObject::Float(_) => to.push_str(&value.py_repr()),
        MontyObject::List(items) => {
            to.push('[');
            all(to, items)?;
            to.push(']');
        }
        MontyObject::Tuple(items) => {
            to.push('(');
            all(to, items)?;
            to.push(')');
        }
        MontyObject::Set(items) => {
            to.push_str("{*(");
            all(to, items)?;
            to.push_str(")}");
        }
        MontyObject::FrozenSet(items) => {
            to.push_str("frozenset((");
            all(to, items)?;
            to.push_str("))");
        }
        MontyObject::Dict(pairs) => {
            to.push('{');
            for (key, value) in pairs {
                write(key, to, depth + 1)?;
                to.push_str(": ");
                write(value, to, depth + 1)?;
                to.push_str(", ");
            }
            to.push('}');
        }
        _ => return None,
    }
    Some(())
}
