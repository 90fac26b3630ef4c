//! Engines that are chosen at run time.

use std::any::Any;

use super::{
    ExecuteOptions, Execution, Interpreter, InterpreterError, InterruptHandle, OutputRef, Variable,
};
use crate::manager::{CloseReason, CreateContext, Manager};

/// An engine that was chosen at run time; [`boxed`] makes the manager that makes it.
pub type BoxInterpreter = Box<dyn Interpreter + Send>;

/// Makes a manager whose engines are boxed, so that managers of different engines are of one type.
///
/// What the manager has to say about its engines (broken, valid, interrupted, closed in good order)
/// it goes on saying.
///
/// ```
/// # #[cfg(all(feature = "monty", feature = "cpython", unix))]
/// # {
/// use sessile::Pool;
/// use sessile::interpreter::cpython::CPythonManager;
/// use sessile::interpreter::monty::MontyManager;
/// use sessile::interpreter::{BoxInterpreter, Interpreter, boxed};
///
/// fn pythons(engine: &str) -> Pool<BoxInterpreter> {
///     Pool::new(match engine {
///         "monty" => boxed(MontyManager::new()),
///         _ => boxed(CPythonManager::new()),
///     })
/// }
///
/// let answer = pythons("monty").with(|python| python.run("6 * 7"))??;
/// assert_eq!(answer.text(), Some("42"));
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn boxed<M>(manager: M) -> Box<dyn Manager<Instance = BoxInterpreter>>
where
    M: Manager<Instance: Interpreter + Send>,
{
    Box::new(Boxing(manager))
}

struct Boxing<M>(M);

/// The engine in the box. `None` if the pool's user has put another kind of engine into its place:
/// that one is checked by nobody, and closed by dropping it.
fn inside<E: 'static>(engine: &mut BoxInterpreter) -> Option<&mut E> {
    let engine: &mut dyn Any = &mut **engine;
    engine.downcast_mut()
}

impl<M> Manager for Boxing<M>
where
    M: Manager<Instance: Interpreter + Send>,
{
    type Instance = BoxInterpreter;

    fn create(&self, cx: &CreateContext) -> anyhow::Result<BoxInterpreter> {
        Ok(Box::new(self.0.create(cx)?))
    }

    fn has_broken(&self, engine: &mut BoxInterpreter) -> bool {
        inside(engine).is_some_and(|engine| self.0.has_broken(engine))
    }

    fn can_break(&self) -> bool {
        self.0.can_break()
    }

    fn is_valid(&self, engine: &mut BoxInterpreter) -> anyhow::Result<()> {
        inside(engine).map_or(Ok(()), |engine| self.0.is_valid(engine))
    }

    fn rescue(&self, engine: &mut BoxInterpreter) -> bool {
        inside(engine).is_some_and(|engine| self.0.rescue(engine))
    }

    fn interrupt(&self, engine: &BoxInterpreter) -> Option<InterruptHandle> {
        let engine: &dyn Any = &**engine;
        self.0.interrupt(engine.downcast_ref()?)
    }

    fn describe(&self, engine: &BoxInterpreter) -> Option<String> {
        let engine: &dyn Any = &**engine;
        self.0.describe(engine.downcast_ref()?)
    }

    fn close(&self, engine: BoxInterpreter, reason: CloseReason) -> anyhow::Result<()> {
        let engine: Box<dyn Any> = engine;
        engine.downcast().map_or(Ok(()), |engine| self.0.close(*engine, reason))
    }
}

impl<I: Interpreter + ?Sized> Interpreter for Box<I> {
    fn execute(
        &mut self,
        code: &str,
        options: &ExecuteOptions,
    ) -> Result<Execution, InterpreterError> {
        (**self).execute(code, options)
    }

    fn execute_with(
        &mut self,
        code: &str,
        options: &ExecuteOptions,
        on_output: &mut dyn FnMut(OutputRef<'_>),
    ) -> Result<Execution, InterpreterError> {
        (**self).execute_with(code, options, on_output)
    }

    fn reset(&mut self) -> Result<(), InterpreterError> {
        (**self).reset()
    }

    fn is_alive(&self) -> bool {
        (**self).is_alive()
    }

    fn interrupt_handle(&self) -> InterruptHandle {
        (**self).interrupt_handle()
    }

    fn variables(&mut self, options: &ExecuteOptions) -> Result<Vec<Variable>, InterpreterError> {
        (**self).variables(options)
    }

    fn run(&mut self, code: &str) -> Result<Execution, InterpreterError> {
        (**self).run(code)
    }
}
