"""Lab idle-snic: why is half of the storage bandwidth idle?"""
