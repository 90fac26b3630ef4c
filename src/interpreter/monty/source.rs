//! What is done to a cell's source before Monty sees it.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::mem;

use ruff_python_ast::token::TokenKind;
use ruff_python_ast::visitor::{self, Visitor};
use ruff_python_ast::{Alias, ExceptHandler, Expr, ExprContext, ModModule, Stmt};
use ruff_python_parser::{Mode, Parsed, lexer};

/// A cell, ready for Monty.
pub(super) struct Source<'a> {
    /// The code. The value of its last expression, if it has one, is a string or `None`.
    pub(super) text: Cow<'a, str>,
    /// The number of the line that was put in before the last expression.
    pub(super) inserted: Option<u32>,
}

/// How deep a tree may become that the parser builds without recursion of its own.
///
/// Monty takes no more than 200 levels, but it looks at the finished tree, and even to drop a tree
/// of some thousand levels overflows a stack of 2 MiB in a build that is not optimized.
const DEEPEST: usize = 1000;

/// Whether the parser would build a tree from this that is too deep for anybody to touch.
///
/// Nesting is bounded by the parser, which recurses for it. Chains are not: `1 + 1 + ..`,
/// `a.b.c..`, `f()()..` each add a level per link. So for each bracket that is open the links are
/// counted since the last comma or line in it, and the sum is what the tree cannot be deeper than.
pub(super) fn is_too_deep(code: &str) -> bool {
    if code.len() <= DEEPEST {
        return false; // each level takes a byte
    }
    let mut lexer = lexer::lex(code, Mode::Module);
    let (mut open, mut links, mut sum) = (Vec::new(), 0, 0);
    loop {
        match lexer.next_token() {
            TokenKind::EndOfFile => return false,
            TokenKind::Lpar | TokenKind::Lsqb | TokenKind::Lbrace => {
                (links, sum) = (links + 1, sum + 1);
                open.push(mem::take(&mut links));
            }
            TokenKind::Rpar | TokenKind::Rsqb | TokenKind::Rbrace => {
                sum -= links;
                links = open.pop().unwrap_or_default();
            }
            TokenKind::Comma | TokenKind::Newline | TokenKind::Semi => sum -= mem::take(&mut links),
            TokenKind::Dot
            | TokenKind::Plus
            | TokenKind::Minus
            | TokenKind::Star
            | TokenKind::Slash
            | TokenKind::DoubleSlash
            | TokenKind::Percent
            | TokenKind::At
            | TokenKind::Amper
            | TokenKind::Vbar
            | TokenKind::CircumFlex
            | TokenKind::LeftShift
            | TokenKind::RightShift => (links, sum) = (links + 1, sum + 1),
            _ => {}
        }
        if sum > DEEPEST {
            return true;
        }
    }
}

/// Prepares a cell, and adds what it may bind at top level to `names`.
///
/// The value of the last expression is shown by Python itself, which alone knows `__repr__`. The
/// expression stays on lines of its own, so that its columns in tracebacks are right. Code that
/// does not end in an expression, or does not parse, is left as it is.
pub(super) fn prepare<'a>(code: &'a str, names: &mut BTreeSet<String>) -> Source<'a> {
    let Ok(parsed) = ruff_python_parser::parse_module(code) else {
        return Source { text: Cow::Borrowed(code), inserted: None };
    };
    Bindings { names, depth: 0 }.visit_body(parsed.suite());
    // Monty answers an empty cell without giving it a number.
    let code = if code.is_empty() { "\n" } else { code };
    show_last_expression(code, &parsed)
}

fn show_last_expression<'a>(code: &'a str, parsed: &Parsed<ModModule>) -> Source<'a> {
    let unchanged = Source { text: Cow::Borrowed(code), inserted: None };
    let Some(Stmt::Expr(last)) = parsed.suite().last() else {
        return unchanged;
    };
    let (start, end) = (usize::from(last.range.start()), usize::from(last.range.end()));
    let (before, expression, after) = (&code[..start], &code[start..end], &code[end..]);
    if after.trim_start().starts_with(';') {
        // Its value is not to be shown, and Monty would return it.
        return Source { text: Cow::Owned(format!("{code}\nNone")), inserted: None };
    }
    let Ok(line) = u32::try_from(before.split('\n').count()) else {
        return unchanged;
    };
    let shown = format!("{before}__sessile_show__((\n{expression}\n)){after}");
    Source { text: Cow::Owned(shown), inserted: Some(line) }
}

/// The names that a statement at top level binds there, now or when its functions are called.
#[cfg(all(feature = "cpython", unix))]
pub(in super::super) fn names_bound_by(stmt: &Stmt) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    Bindings { names: &mut names, depth: 0 }.visit_stmt(stmt);
    names
}

/// Finds the names that a module binds: its own, and those its functions declare `global`.
struct Bindings<'n> {
    names: &'n mut BTreeSet<String>,
    /// How many scopes that are not the module's lie around.
    depth: usize,
}

impl Bindings<'_> {
    fn bind(&mut self, name: &str) {
        if !self.names.contains(name) {
            self.names.insert(name.to_owned());
        }
    }

    fn bind_here(&mut self, name: &str) {
        if self.depth == 0 {
            self.bind(name);
        }
    }

    fn inside(&mut self, walk: impl FnOnce(&mut Self)) {
        self.depth += 1;
        walk(self);
        self.depth -= 1;
    }
}

impl<'a> Visitor<'a> for Bindings<'_> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::FunctionDef(function) => self.bind_here(&function.name),
            Stmt::ClassDef(class) => self.bind_here(&class.name),
            Stmt::Global(global) => global.names.iter().for_each(|name| self.bind(name)),
            _ => {}
        }
        match stmt {
            Stmt::FunctionDef(_) | Stmt::ClassDef(_) => {
                self.inside(|this| visitor::walk_stmt(this, stmt));
            }
            _ => visitor::walk_stmt(self, stmt),
        }
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Name(name) if name.ctx == ExprContext::Store => self.bind_here(&name.id),
            Expr::Lambda(_)
            | Expr::ListComp(_)
            | Expr::SetComp(_)
            | Expr::DictComp(_)
            | Expr::Generator(_) => self.inside(|this| visitor::walk_expr(this, expr)),
            _ => visitor::walk_expr(self, expr),
        }
    }

    fn visit_alias(&mut self, alias: &'a Alias) {
        let name = alias.asname.as_ref().unwrap_or(&alias.name);
        self.bind_here(name.split('.').next().unwrap_or_default());
    }

    fn visit_except_handler(&mut self, handler: &'a ExceptHandler) {
        let ExceptHandler::ExceptHandler(inner) = handler;
        if let Some(name) = &inner.name {
            self.bind_here(name);
        }
        visitor::walk_except_handler(self, handler);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_last_expression_is_shown() {
        let shown = |code| prepare(code, &mut BTreeSet::new()).text.into_owned();
        assert_eq!(shown("a\nb # c"), "a\n__sessile_show__((\nb\n)) # c");
        assert_eq!(shown("a; (1,\n 2)"), "a; __sessile_show__((\n(1,\n 2)\n))");
        assert_eq!(shown("x = 1"), "x = 1");
        assert_eq!(shown("if x:\n    y"), "if x:\n    y");
        assert_eq!(shown("a b"), "a b");
        assert_eq!(shown("a ; # c"), "a ; # c\nNone");
        assert_eq!(shown("a # ;"), "__sessile_show__((\na\n)) # ;");
        assert_eq!(shown(""), "\n");
    }

    #[test]
    fn chains_are_bounded_and_long_code_is_not() {
        let deep = [
            format!("{}1", "1 + ".repeat(1500)),
            format!("x = (1,\n{}1)", "1*".repeat(1500)),
            format!("f{}", ".a()[0]".repeat(600)),
            format!("{}1{}", "(1 + 1 + 1 + ".repeat(400), ")".repeat(400)),
        ];
        assert!(deep.iter().all(|code| is_too_deep(code)));
        let wide = [
            "x += 1\n".repeat(5000),
            format!("x = [{}]", "a.b + f(c), ".repeat(5000)),
            format!("f({})", "(1), ".repeat(5000)),
            "x.y = a[0] * 3;".repeat(5000),
            format!("'{}'", "1+".repeat(5000)),
            ")".repeat(5000),
        ];
        assert!(!wide.iter().any(|code| is_too_deep(code)));
    }

    #[test]
    fn names_are_those_of_the_module() {
        let names = |code| {
            let mut names = BTreeSet::new();
            prepare(code, &mut names);
            names.into_iter().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names("a, (b, *c) = 1, (2, 3)\nd: int = 4\ne += 1"), "a b c d e");
        assert_eq!(names("def f(p):\n    global g\n    g = x = 1"), "f g");
        assert_eq!(names("class C:\n    y = 1\n    def m(self): pass"), "C");
        assert_eq!(names("import a.b, c as d\nfrom e import f as g"), "a d g");
        assert_eq!(names("for i in [j for j in k]: pass\nif (w := 1): pass"), "i w");
        assert_eq!(names("try: pass\nexcept E as e: pass\nx.y = z[0] = 1"), "e");
    }
}
