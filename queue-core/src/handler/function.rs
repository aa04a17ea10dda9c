//! Async functions as handlers: up to four extractors, then the job.

use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;

use super::{Context, Executor, Fail, IntoFail, States};
use crate::{ErrorKind, Job, Payload};

/// A part of an attempt that a handler can ask for as an argument.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an argument of a handler",
    note = "before the job, a handler may take `Context` and `State<T>`"
)]
pub trait FromContext: Sized + Send {
    /// Takes the part out of the attempt.
    ///
    /// # Errors
    /// What is missing; the job fails with it.
    fn from_context(context: &Context) -> Result<Self, Fail>;

    /// What the worker would have to be given so that this can be taken out of its attempts; asked
    /// once, before it starts.
    #[must_use]
    fn missing(states: &States) -> Option<&'static str> {
        let _ = states;
        None
    }
}

impl FromContext for Context {
    fn from_context(context: &Context) -> Result<Self, Fail> {
        Ok(context.clone())
    }
}

/// The value that [`Worker::state`](crate::Worker::state) was given for type `T`.
#[derive(Debug, Clone, Copy)]
pub struct State<T>(pub T);

impl<T: Clone + Send + Sync + 'static> FromContext for State<T> {
    fn from_context(context: &Context) -> Result<Self, Fail> {
        context.state::<T>().map(State).ok_or_else(|| {
            Fail::retry(format!(
                "this worker has no state of type {}; give it one with Worker::state",
                std::any::type_name::<T>()
            ))
        })
    }

    fn missing(states: &States) -> Option<&'static str> {
        (!states.has::<T>()).then(std::any::type_name::<T>)
    }
}

/// An async function that runs jobs of type `J`: `async fn(extractors…, J) -> Result<T, E>`, where
/// the answer `T` is stored as the job's result (`()` stores none) and `E` is [`Fail`] or any
/// error.
#[diagnostic::on_unimplemented(
    message = "this is not a handler for `{J}`",
    note = "a handler is an async fn of up to four extractors (`Context`, `State<T>`) and then \
            the job, that returns `Result<T, E>` with `T: Serialize` and `E` an error or `Fail`"
)]
pub trait Handler<J, Arguments>: Send + Sync + 'static {
    /// Runs one attempt.
    ///
    /// # Errors
    /// What the function answers, or what could not be extracted.
    fn call(
        &self,
        context: &Context,
        job: J,
    ) -> impl Future<Output = Result<Option<Payload>, Fail>> + Send;

    /// A type of [`State`] that it asks for and the worker does not have.
    #[must_use]
    fn missing(states: &States) -> Option<&'static str>;
}

macro_rules! handler {
    ($($argument:ident),*) => {
        #[allow(non_snake_case, unused_variables, reason = "one macro for every arity")]
        impl<F, Fut, J, T, E, $($argument),*> Handler<J, ($($argument,)*)> for F
        where
            F: Fn($($argument,)* J) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = Result<T, E>> + Send,
            J: Job,
            T: Serialize,
            E: IntoFail,
            $($argument: FromContext,)*
        {
            async fn call(&self, context: &Context, job: J) -> Result<Option<Payload>, Fail> {
                $(let $argument = $argument::from_context(context)?;)*
                // The future is made in a statement of its own: the extracted parts are moved
                // into it, so nothing that is not `Send` lives across the await.
                let future = self($($argument,)* job);
                to_result(&future.await.map_err(IntoFail::into_fail)?)
            }

            fn missing(states: &States) -> Option<&'static str> {
                None$(.or_else(|| $argument::missing(states)))*
            }
        }
    };
}

handler!();
handler!(A1);
handler!(A1, A2);
handler!(A1, A2, A3);
handler!(A1, A2, A3, A4);

/// The stored form of a handler's answer; none for `()`.
fn to_result<T: Serialize>(value: &T) -> Result<Option<Payload>, Fail> {
    let payload = Payload::msgpack(value)?;
    const NIL: &[u8] = &[0xc0];
    Ok((payload.bytes().as_ref() != NIL).then_some(payload))
}

/// A [`Handler`] as an [`Executor`]: decodes the payload first.
pub(crate) struct FunctionExecutor<F, J, Arguments> {
    function: F,
    types: PhantomData<fn(J, Arguments)>,
}

impl<F, J, Arguments> FunctionExecutor<F, J, Arguments> {
    pub(crate) const fn new(function: F) -> Self {
        Self { function, types: PhantomData }
    }
}

impl<F, J, Arguments> Executor for FunctionExecutor<F, J, Arguments>
where
    F: Handler<J, Arguments>,
    J: Job,
    Arguments: 'static,
{
    async fn run(&self, context: Context) -> Result<Option<Payload>, Fail> {
        let job: J = context.spec().payload.decode().map_err(|e| {
            // The bytes will not get better by waiting.
            Fail::dead(e).kind(ErrorKind::Undecodable)
        })?;
        self.function.call(&context, job).await
    }
}

impl<F, J, Arguments> fmt::Debug for FunctionExecutor<F, J, Arguments> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FunctionExecutor({})", std::any::type_name::<F>())
    }
}
