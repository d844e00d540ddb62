//! How a struct of a C header is mirrored: its layout, its zero, and its bytes.

/// Where one field of a shared struct lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// The name, equal on both sides.
    pub name: &'static str,
    /// Bytes from the start of the struct.
    pub offset: usize,
    /// Bytes of the field.
    pub size: usize,
}

/// The layout of one shared struct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The name in the header.
    pub c_name: &'static str,
    /// Bytes of the struct.
    pub size: usize,
    /// All fields, in order.
    pub fields: Vec<Field>,
}

/// A value that both sides lay out alike: an integer, a float, an array or a shared struct.
pub trait Shared: Copy {
    /// All bytes zero.
    const ZERO: Self;

    /// Appends the bytes as they lie in memory, little endian.
    fn write(&self, out: &mut Vec<u8>);

    /// Takes the value off the front of `bytes`; `None` where there are too few.
    fn read(bytes: &mut &[u8]) -> Option<Self>;
}

macro_rules! numbers {
    ($($ty:ty),*) => {
        $(
            impl Shared for $ty {
                const ZERO: Self = 0 as $ty;

                fn write(&self, out: &mut Vec<u8>) {
                    out.extend_from_slice(&self.to_le_bytes());
                }

                fn read(bytes: &mut &[u8]) -> Option<Self> {
                    let (front, rest) = bytes.split_first_chunk()?;
                    *bytes = rest;
                    Some(Self::from_le_bytes(*front))
                }
            }
        )*
    };
}

numbers!(u32, u64, f32);

impl<T: Shared, const N: usize> Shared for [T; N] {
    const ZERO: Self = [T::ZERO; N];

    fn write(&self, out: &mut Vec<u8>) {
        for value in self {
            value.write(out);
        }
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        let mut values = Self::ZERO;
        for value in &mut values {
            *value = T::read(bytes)?;
        }
        Some(values)
    }
}

/// Structs with the fields of a header's structs, and `layouts()` to compare them by.
macro_rules! shared {
    ($(
        $(#[$doc:meta])*
        $c_name:ident as $name:ident, $size:literal bytes {
            $($(#[$field_doc:meta])* $field:ident: $ty:ty,)*
        }
    )*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Debug, Clone, Copy, PartialEq)]
            pub struct $name {
                $($(#[$field_doc])* pub $field: $ty,)*
            }
            const _: () = assert!(size_of::<$name>() == $size);
            // No hidden padding: every byte of the struct is a byte of some field.
            const _: () = assert!($size == 0 $(+ size_of::<$ty>())*);

            impl $crate::abi::Shared for $name {
                const ZERO: Self =
                    Self { $($field: <$ty as $crate::abi::Shared>::ZERO),* };

                fn write(&self, out: &mut Vec<u8>) {
                    $($crate::abi::Shared::write(&self.$field, out);)*
                }

                fn read(bytes: &mut &[u8]) -> Option<Self> {
                    Some(Self { $($field: <$ty as $crate::abi::Shared>::read(bytes)?),* })
                }
            }

            impl Default for $name {
                fn default() -> Self {
                    <Self as $crate::abi::Shared>::ZERO
                }
            }
        )*

        /// The layout of every struct of the header as this side sees it.
        pub fn layouts() -> Vec<$crate::abi::Layout> {
            vec![$($crate::abi::Layout {
                c_name: stringify!($c_name),
                size: size_of::<$name>(),
                fields: vec![$($crate::abi::Field {
                    name: stringify!($field),
                    offset: std::mem::offset_of!($name, $field),
                    size: size_of::<$ty>(),
                }),*],
            }),*]
        }
    };
}

pub(super) use shared;
