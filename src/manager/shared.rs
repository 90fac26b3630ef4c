//! Managers behind a pointer: in a box when the kind is chosen at run time, shared by several pools.

use std::sync::Arc;

use super::{CreateContext, InterruptHandle, Manager};
use crate::manager::CloseReason;

macro_rules! delegates {
    ($pointer:ident) => {
        impl<M: Manager + ?Sized> Manager for $pointer<M> {
            type Instance = M::Instance;

            fn create(&self, cx: &CreateContext) -> anyhow::Result<Self::Instance> {
                (**self).create(cx)
            }

            fn has_broken(&self, instance: &mut Self::Instance) -> bool {
                (**self).has_broken(instance)
            }

            fn can_break(&self) -> bool {
                (**self).can_break()
            }

            fn is_valid(&self, instance: &mut Self::Instance) -> anyhow::Result<()> {
                (**self).is_valid(instance)
            }

            fn rescue(&self, instance: &mut Self::Instance) -> bool {
                (**self).rescue(instance)
            }

            fn interrupt(&self, instance: &Self::Instance) -> Option<InterruptHandle> {
                (**self).interrupt(instance)
            }

            fn describe(&self, instance: &Self::Instance) -> Option<String> {
                (**self).describe(instance)
            }

            fn close(&self, instance: Self::Instance, reason: CloseReason) -> anyhow::Result<()> {
                (**self).close(instance, reason)
            }
        }
    };
}

delegates!(Box);
delegates!(Arc);
