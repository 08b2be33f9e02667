//! The ciphers whose keys are in the file. What follows a prefix is upstream's: nonce or IV first, then the ciphertext.

use aes_gcm::{
    AesGcm, KeyInit,
    aead::{Aead, Payload, consts::U12},
    aes::{Aes128, Aes192, Aes256},
};
use cbc::{
    Decryptor, Encryptor,
    cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit, block_padding::Pkcs7},
};
use crypto_secretbox::XSalsa20Poly1305;

use super::CryptError;

/// Something that turns bytes into others and back.
pub(super) trait Cipher: Send + Sync {
    /// `context` is the key under which the value is stored; some ciphers bind the value to it.
    fn seal(&self, plain: &[u8], context: &[u8]) -> Result<Vec<u8>, CryptError>;
    /// The reverse.
    fn open(&self, sealed: &[u8], context: &[u8]) -> Result<Vec<u8>, CryptError>;
}

const SHORT: &str = "the stored data was shorter than the required size";

fn random<const N: usize>() -> Result<[u8; N], CryptError> {
    use ring::rand::{SecureRandom, SystemRandom};
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| CryptError::new("unable to read sufficient random bytes"))?;
    Ok(bytes)
}

/// Fresh random bytes for keys.
pub(super) fn random_key() -> Result<[u8; 32], CryptError> {
    random()
}

/// AES-GCM with a random nonce, bound to the stored key.
pub(super) enum Gcm {
    A(Box<AesGcm<Aes128, U12>>),
    B(Box<AesGcm<Aes192, U12>>),
    C(Box<AesGcm<Aes256, U12>>),
}

impl Gcm {
    /// A key of 16, 24 or 32 bytes.
    pub fn new(key: &[u8]) -> Result<Self, CryptError> {
        let wrong = |_| CryptError::new(format!("crypto/aes: invalid key size {}", key.len()));
        Ok(match key.len() {
            16 => Self::A(Box::new(KeyInit::new_from_slice(key).map_err(wrong)?)),
            24 => Self::B(Box::new(KeyInit::new_from_slice(key).map_err(wrong)?)),
            _ => Self::C(Box::new(KeyInit::new_from_slice(key).map_err(wrong)?)),
        })
    }
}

impl Cipher for Gcm {
    fn seal(&self, plain: &[u8], context: &[u8]) -> Result<Vec<u8>, CryptError> {
        let nonce = random::<12>()?;
        let payload = Payload { msg: plain, aad: context };
        let sealed = match self {
            Self::A(cipher) => cipher.encrypt(&nonce.into(), payload),
            Self::B(cipher) => cipher.encrypt(&nonce.into(), payload),
            Self::C(cipher) => cipher.encrypt(&nonce.into(), payload),
        };
        let sealed = sealed.map_err(|_| CryptError::new("the value is too large for AES-GCM"))?;
        Ok([&nonce[..], &sealed].concat())
    }

    fn open(&self, sealed: &[u8], context: &[u8]) -> Result<Vec<u8>, CryptError> {
        let (nonce, sealed) = sealed.split_first_chunk::<12>().ok_or_else(|| CryptError::new(SHORT))?;
        let payload = Payload { msg: sealed, aad: context };
        let opened = match self {
            Self::A(cipher) => cipher.decrypt(&(*nonce).into(), payload),
            Self::B(cipher) => cipher.decrypt(&(*nonce).into(), payload),
            Self::C(cipher) => cipher.decrypt(&(*nonce).into(), payload),
        };
        opened.map_err(|_| CryptError::new("cipher: message authentication failed"))
    }
}

/// AES-CBC with a random IV and PKCS#7 padding; not authenticated.
pub(super) struct Cbc(pub Vec<u8>);

impl Cipher for Cbc {
    fn seal(&self, plain: &[u8], _: &[u8]) -> Result<Vec<u8>, CryptError> {
        let iv = random::<16>()?;
        let wrong = |_| CryptError::new(format!("crypto/aes: invalid key size {}", self.0.len()));
        let sealed = match self.0.len() {
            16 => Encryptor::<aes::Aes128>::new_from_slices(&self.0, &iv)
                .map_err(wrong)?
                .encrypt_padded_vec::<Pkcs7>(plain),
            24 => Encryptor::<aes::Aes192>::new_from_slices(&self.0, &iv)
                .map_err(wrong)?
                .encrypt_padded_vec::<Pkcs7>(plain),
            _ => Encryptor::<aes::Aes256>::new_from_slices(&self.0, &iv)
                .map_err(wrong)?
                .encrypt_padded_vec::<Pkcs7>(plain),
        };
        Ok([&iv[..], &sealed].concat())
    }

    fn open(&self, sealed: &[u8], _: &[u8]) -> Result<Vec<u8>, CryptError> {
        let (iv, sealed) = sealed.split_first_chunk::<16>().ok_or_else(|| CryptError::new(SHORT))?;
        if sealed.len() % 16 != 0 {
            return Err(CryptError::new("the stored data is not a multiple of the block size"));
        }
        let wrong = |_| CryptError::new(format!("crypto/aes: invalid key size {}", self.0.len()));
        let opened = match self.0.len() {
            16 => Decryptor::<aes::Aes128>::new_from_slices(&self.0, iv)
                .map_err(wrong)?
                .decrypt_padded_vec::<Pkcs7>(sealed),
            24 => Decryptor::<aes::Aes192>::new_from_slices(&self.0, iv)
                .map_err(wrong)?
                .decrypt_padded_vec::<Pkcs7>(sealed),
            _ => Decryptor::<aes::Aes256>::new_from_slices(&self.0, iv)
                .map_err(wrong)?
                .decrypt_padded_vec::<Pkcs7>(sealed),
        };
        opened.map_err(|_| CryptError::new("invalid padding on input"))
    }
}

/// XSalsa20 and Poly1305 with a random nonce: NaCl's secretbox.
pub(super) struct Secretbox(Box<XSalsa20Poly1305>);

impl Secretbox {
    /// A key of 32 bytes.
    pub fn new(key: &[u8]) -> Result<Self, CryptError> {
        use crypto_secretbox::aead::KeyInit;
        let cipher = XSalsa20Poly1305::new_from_slice(key);
        cipher.map(|cipher| Self(Box::new(cipher))).map_err(|_| CryptError::new("secretbox needs a key of 32 bytes"))
    }
}

impl Cipher for Secretbox {
    fn seal(&self, plain: &[u8], _: &[u8]) -> Result<Vec<u8>, CryptError> {
        use crypto_secretbox::aead::Aead;
        let nonce = random::<24>()?;
        let sealed = self.0.encrypt(&nonce.into(), plain);
        Ok([&nonce[..], &sealed.map_err(|_| CryptError::new("the value is too large for secretbox"))?].concat())
    }

    fn open(&self, sealed: &[u8], _: &[u8]) -> Result<Vec<u8>, CryptError> {
        use crypto_secretbox::aead::Aead;
        let (nonce, sealed) = sealed.split_first_chunk::<24>().ok_or_else(|| CryptError::new(SHORT))?;
        let opened = self.0.decrypt(&(*nonce).into(), sealed);
        opened.map_err(|_| CryptError::new("output array was not large enough for encryption"))
    }
}

/// AES-GCM under a key that is derived anew for every value: `KDF(seed, info) -> key`, the random info stored first.
pub(super) struct ExtendedNonce(pub [u8; 32]);

const INFO: usize = 32;

impl ExtendedNonce {
    fn derived(&self, info: &[u8]) -> Result<Gcm, CryptError> {
        use ring::hkdf::{HKDF_SHA256, Prk};
        let mut key = [0; 32];
        let parts = [info];
        let expanded =
            Prk::new_less_safe(HKDF_SHA256, &self.0).expand(&parts, HKDF_SHA256).and_then(|okm| okm.fill(&mut key));
        expanded.map_err(|_| CryptError::new("failed to KDF expand seed with info"))?;
        Gcm::new(&key)
    }
}

impl Cipher for ExtendedNonce {
    fn seal(&self, plain: &[u8], context: &[u8]) -> Result<Vec<u8>, CryptError> {
        let info = random::<INFO>()?;
        Ok([&info[..], &self.derived(&info)?.seal(plain, context)?].concat())
    }

    fn open(&self, sealed: &[u8], context: &[u8]) -> Result<Vec<u8>, CryptError> {
        let (info, sealed) = sealed.split_first_chunk::<INFO>().ok_or_else(|| CryptError::new(SHORT))?;
        self.derived(info)?.open(sealed, context)
    }
}
