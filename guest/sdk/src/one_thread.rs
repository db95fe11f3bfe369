//! Statics of the one thread that a district has. In tests, each thread has its own.

/// A value that only one thread can reach, because there is no other.
#[cfg(not(test))]
#[derive(Debug)]
pub(crate) struct OneThread<T>(T);

// SAFETY: a district has one thread of control and no interrupts.
#[cfg(not(test))]
unsafe impl<T> Sync for OneThread<T> {}

#[cfg(not(test))]
impl<T> OneThread<T> {
    pub(crate) const fn new(value: T) -> Self {
        OneThread(value)
    }

    pub(crate) fn with<R>(&self, access: impl FnOnce(&T) -> R) -> R {
        access(&self.0)
    }
}

/// Makes a static with one method, `with`, which passes a reference to its value on.
macro_rules! one_thread {
    (static $name:ident: $type:ty = $value:expr;) => {
        #[cfg(not(test))]
        static $name: $crate::one_thread::OneThread<$type> = $crate::one_thread::OneThread::new($value);
        #[cfg(test)]
        std::thread_local! {
            static $name: $type = const { $value };
        }
    };
}

pub(crate) use one_thread;
