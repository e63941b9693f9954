"""How far a fit is from the global optimum: certificates, from the objective at one point alone."""

from sklearn_maml.certificate.certify import certify
from sklearn_maml.certificate.gap_certificate import GapCertificate

__all__ = ["GapCertificate", "certify"]
